from torch import nn

from grounded.models.detectors.fast import replace_modules


class Special(nn.ReLU):
    pass


def test_modules_of_a_kind_are_replaced_wherever_they_are():
    shared = nn.ReLU()
    network = nn.Sequential(shared, nn.Sequential(nn.Tanh(), shared), Special())
    replace_modules(network, (nn.ReLU,), lambda module: nn.GELU())
    assert [type(module) for module in network.modules() if not list(module.children())] == [
        nn.GELU,
        nn.Tanh,
        nn.GELU,
        Special,
    ]


def test_replacements_are_not_replaced():
    network = nn.Sequential(nn.ReLU())
    replace_modules(network, (nn.ReLU,), lambda module: Special())
    first = network[0]
    replace_modules(network, (nn.ReLU,), lambda module: Special())
    assert network[0] is first


def test_a_network_without_them_is_left_alone():
    network = nn.Sequential(nn.Tanh())
    replace_modules(network, (nn.ReLU,), lambda module: nn.GELU())
    assert type(network[0]) is nn.Tanh

"""How good labels are, measured against a true annotation; works on stored values, without any model."""

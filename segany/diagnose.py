"""Say what a file is that was given as weights but holds none, or those of another network. For error messages.

Only bytes and names are looked at: no pickle is executed and no tensor is loaded.
"""

import json
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path

from segany.files import PathLike
from segany.formats.pickles import pickle_names

SEGMENT_ANYTHING = "Segment Anything"
_HEAD = 4096  # bytes read to recognise a file by its beginning
_LARGEST_HEADER = 100_000_000  # of safetensors, by its specification

_ARCHIVES = {b"\x1f\x8b": "gzip", b"7z\xbc\xaf": "7z", b"Rar!": "RAR", b"\xfd7zXZ": "xz", b"BZh": "bzip2"}
_FORMATS = {
    b"\x89HDF": "a Keras (HDF5) file",
    b"GGUF": "a GGUF file",
    b"\x93NUMPY": "a NumPy array",
    b"%PDF": "a PDF document",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"ftrt": "a TensorRT engine",
    b"ptrt": "a TensorRT engine",
}
_BY_SUFFIX = {
    ".onnx": "an ONNX graph",
    ".engine": "a TensorRT engine",
    ".trt": "a TensorRT engine",
    ".plan": "a TensorRT engine",
    ".mlmodel": "a Core ML model",
    ".mlpackage": "a Core ML model",
    ".mlmodelc": "a Core ML model",
    ".tflite": "a TensorFlow Lite model",
    ".pb": "a TensorFlow graph",
    ".ckpt.index": "a TensorFlow checkpoint",
}
# An ONNX file begins with its version (field 1) and the name of the program that wrote it (field 2).
_ONNX = re.compile(rb"\x08[\x01-\x20]\x12[\x01-\x40][\x20-\x7e]")
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_AGAIN = "download it again"

# Networks by the names of their tensors, or of the classes that a pickle names. Searched in this order; the first that
# fits is taken, so more particular ones come first. A name may begin with any wrapper's prefix.
_NETWORKS: tuple[tuple[str, str], ...] = (
    ("a Segment Anything adapter (LoRA)", r"\.lora_[AB]\.|^w_[ab]_\d+$|^base_model\.model\..*\.lora_"),
    ("SAM 3", r"(?:^|\.)(?:backbone\.language_backbone\.|detector_model\.|geometry_encoder\.)"),
    (
        "SAM 2",
        r"(?:^|\.)(?:image_encoder\.trunk\.|sam_mask_decoder\.|sam_prompt_encoder\.|memory_attention\.|"
        r"vision_encoder\.backbone\.blocks\.|memory_encoder\.)",
    ),
    (
        "Grounding DINO",
        r"(?:^|\.)(?:transformer\.encoder\.fusion_layers\.|encoder\.layers\.\d+\.fusion_layer\.|feat_map\.weight|"
        r"language_model\.language_backbone\.|query_position_embeddings\.weight)",
    ),
    ("OWL-ViT or OWLv2", r"(?:^|\.)(?:owlvit|owlv2|box_head\.dense0|class_head\.dense0|objectness_head)\."),
    (SEGMENT_ANYTHING, r"(?:^|\.)(?:mask_decoder\.transformer|iou_token|output_hypernetworks_mlps|no_mask_embed)\."),
    (
        "CLIP",
        r"^(?:module\.)?(?:visual\.(?:transformer\.resblocks|trunk|class_embedding|attnpool|conv1)|"
        r"text\.transformer\.resblocks|transformer\.resblocks|token_embedding\.weight|"
        r"vision_model\.(?:encoder|embeddings)\.|text_model\.(?:encoder|embeddings)\.)",
    ),
    ("a one-stage detector of grounded", r"^head\.(?:tower\.\d+|word|sides|quality)\."),
    (
        "YOLO",
        r"^ultralytics\.|^models\.yolo\.|^(?:model\.)*model\.\d+\.(?:conv|cv1|m)\.|(?:^|\.)backbone\.backbone\.stem\.",
    ),
    ("a torchvision or Detectron2 detector", r"(?:^|\.)(?:roi_heads|rpn|proposal_generator)\."),
    ("a detection transformer (DETR)", r"(?:^|\.)(?:query_embed|class_embed|bbox_embed|class_labels_classifier)\."),
    ("a diffusion model", r"(?:^|\.)(?:down_blocks|model\.diffusion_model|first_stage_model)\."),
    ("a language model", r"^model\.layers\.\d+\.self_attn\.q_proj\.|^transformer\.h\.\d+\.|^lm_head\."),
    ("a ResNet", r"(?:^|\.)layer[1-4]\.\d+\.conv1\.weight$"),
    ("an image classifier or backbone (ViT)", r"(?:^|\.)blocks\.\d+\.attn\.qkv\.weight$|(?:^|\.)cls_token$"),
)
_BELONGS = {
    "SAM 2": "another architecture: it is read with kind: sam2 in the section segmenter or video of a configuration",
    "SAM 3": "another architecture: it is read with kind: sam3 in the section video of a configuration",
    "Grounding DINO": "which belongs to the detector",
    "OWL-ViT or OWLv2": "which belongs to the detector",
    "a one-stage detector of grounded": "which belongs to the detector",
    "CLIP": "which belongs to the clip section of a configuration",
    SEGMENT_ANYTHING: "which belongs to the segmenter",
    "a Segment Anything adapter (LoRA)": "which belongs on top of a base checkpoint: segany.load(base, adapter=...)",
}
_MODEL_TYPES = {
    "sam": SEGMENT_ANYTHING,
    "sam_hq": SEGMENT_ANYTHING,
    "sam2": "SAM 2",
    "sam2_video": "SAM 2",
    "edgetam": "SAM 2",
    "edgetam_video": "SAM 2",
    "sam3": "SAM 3",
    "sam3_video": "SAM 3",
    "sam3_tracker": "SAM 3",
    "sam3_tracker_video": "SAM 3",
    "grounding-dino": "Grounding DINO",
    "mm-grounding-dino": "Grounding DINO",
    "owlvit": "OWL-ViT or OWLv2",
    "owlv2": "OWL-ViT or OWLv2",
    "clip": "CLIP",
    "siglip": "CLIP",
    "siglip2": "CLIP",
}


def describe_file(path: PathLike, expected: str | None = None) -> str | None:
    """Say what a file or folder is that cannot be read as the weights it was given for.

    Args:
        path: the file or folder.
        expected: the network that it should be, as `network_of` names it; None if any network is unexpected.

    Returns:
        the end of a sentence that begins with the path, such as "is an HTML page, not weights: the download needs a
        login or the address is wrong"; None when nothing is known against it.
    """
    path = Path(path)
    if path.is_dir():
        return _describe_folder(path, expected)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return None
    if size == 0:
        return f"is empty: {_AGAIN}"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _LARGEST_HEADER:
        return _describe_safetensors(path, size, expected)
    text = _describe_text(head)
    if text:
        return text
    for beginning, name in _ARCHIVES.items():
        if head.startswith(beginning):
            return f"is a {name} archive: unpack it and name the file in it"
    other = _other_format(path, head)
    if other:
        return f"is {other}, not PyTorch weights: name the .pth or .safetensors file that it was made from"
    if head.startswith(b"PK"):
        return _describe_zip(path, size, expected)
    if head[:1] != b"\x80":
        return None
    # A pickle, as torch.save wrote it before version 1.6.
    names = pickle_names(path)
    return describe_network(network_of(names.all), expected) if names.complete else _cut_off(size)


def network_of(names: Iterable[str]) -> str | None:
    """The network that has tensors of these names, such as "Grounding DINO"; None if it is unknown."""
    names = list(names)
    return next(
        (network for network, pattern in _NETWORKS if any(re.search(pattern, name) for name in names)),
        None,
    )


def describe_network(network: str | None, expected: str | None = None) -> str | None:
    """End of a sentence about a network that is not the expected one; None if it is, or is unknown."""
    if network is None or network == expected:
        return None
    return f"holds {network}" + (f", {_BELONGS[network]}" if network in _BELONGS else "")


def _other_format(path: Path, head: bytes) -> str | None:
    """Formats of other programs, by the first bytes where these tell them, else by the suffix."""
    for beginning, name in _FORMATS.items():
        if head.startswith(beginning):
            return name
    if head[4:8] == b"TFL3":
        return "a TensorFlow Lite model"
    if _ONNX.match(head):
        return "an ONNX graph"
    return next((name for suffix, name in _BY_SUFFIX.items() if path.name.lower().endswith(suffix)), None)


def _describe_text(head: bytes) -> str | None:
    """Pages, pointers and other text where weights should be."""
    beginning = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    lower = beginning[:200].lower()
    if lower.startswith((b"<!doctype html", b"<html", b"<head", b"<!--")):
        return "is an HTML page, not weights: the download needs a login or the address is wrong"
    if lower.startswith((b"<?xml", b"<error")):
        return "is an XML message, not weights: the server refused the download or the address is wrong"
    if beginning.startswith(_LFS_POINTER):
        size = re.search(rb"^size (\d+)", beginning, re.MULTILINE)
        amount = f" of {int(size[1]) / 1e6:.4g} MB" if size else ""
        return f"is a Git LFS pointer, not the weights{amount} that it stands for: run `git lfs pull`"
    if b"/annex/objects/" in head[:300] and len(head) < 1000:
        return "is a git-annex pointer, not the weights that it stands for: run `git annex get`"
    if beginning[:1] == b"{":
        return "is JSON text, not weights: the server refused the download, or this is a model's configuration"
    if beginning and all(0x20 <= byte < 0x7F or byte in b"\t\r\n" for byte in head):
        return f"is text, not weights: it begins with {beginning[:30].decode('ascii')!r}"
    return None


def _describe_folder(path: Path, expected: str | None) -> str | None:
    if path.suffix.lower() in _BY_SUFFIX:
        return f"is {_BY_SUFFIX[path.suffix.lower()]}, not PyTorch weights"
    if (path / "open_clip_config.json").is_file():
        return describe_network("CLIP", expected)
    try:
        settings = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    kind = settings.get("model_type") if isinstance(settings, dict) else None
    return describe_network(_MODEL_TYPES.get(str(kind)), expected)


def _describe_zip(path: Path, size: int, expected: str | None) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
            pickles = [name for name in members if name.endswith("data.pkl")]
            if not pickles:
                return _describe_archive(members)
            if any("/code/" in name for name in members):
                return "is a TorchScript archive, which carries code: name the .pth file that it was made from"
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError):
        return _cut_off(size)
    names = pickle_names(path)
    return describe_network(network_of(names.all), expected) if names.complete else _cut_off(size)


def _describe_archive(members: list[str]) -> str:
    weights = [name for name in members if name.lower().endswith((".pth", ".pt", ".safetensors", ".bin", ".ckpt"))]
    if weights:
        return f"is a zip archive that holds {weights[0]}: unpack it and name that file"
    if any(name.endswith((".npy", "model.json")) for name in members):
        return "is an archive of NumPy or Keras, not PyTorch weights"
    shown = f" (the first is {members[0]})" if members else ""
    return f"is a zip archive of {len(members)} other files, not PyTorch weights{shown}"


def _describe_safetensors(path: Path, size: int, expected: str | None) -> str | None:
    try:
        with path.open("rb") as file:
            header_size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(header_size))
        end = 8 + header_size + max(entry["data_offsets"][1] for key, entry in header.items() if key[:2] != "__")
    except (ValueError, LookupError, TypeError, AttributeError, OSError, RecursionError):
        return _cut_off(size)
    if end != size:
        return f"is {'cut off' if size < end else 'damaged'}: it has {size:,} of {end:,} bytes, {_AGAIN}"
    return describe_network(network_of(header), expected)


def _cut_off(size: int) -> str:
    return f"is damaged or cut off after {size:,} bytes, as by a download that was interrupted: {_AGAIN}"

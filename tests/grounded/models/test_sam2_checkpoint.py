from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file

from grounded.config import SegmenterConfig, VideoConfig
from grounded.errors import CheckpointError, ConfigError
from grounded.models import sam2_names, segmenters, trackers
from grounded.models.sam2_checkpoint import EDGETAM, SAM2, SAM2_IMAGE, SAM3, TRACKERS, load_checkpoint, locate
from segany.hub import HubModel
from tests.grounded.models import sam2_models
from tests.hub import COMMIT, fill_cache, use_hub

# Name of the published file -> channels, blocks in each stage, and those that attend to the whole image.
PUBLISHED = {
    "tiny": (96, [1, 2, 7, 2], [5, 7, 9]),
    "small": (96, [1, 2, 11, 2], [7, 10, 13]),
    "base_plus": (112, [2, 3, 16, 3], [12, 16, 20]),
    "large": (144, [2, 6, 36, 4], [23, 33, 43]),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small models, which are not to be changed."""
    root = tmp_path_factory.mktemp("sam2")
    return {kind: sam2_models.save(kind, root / kind) for kind in TRACKERS}


class TestNames:
    def test_they_are_those_of_transformers(self):
        expected = sam2_models.build("sam2").state_dict()
        renamed = sam2_names.rename(sam2_models.to_meta_names(expected))
        assert set(renamed) == set(expected)
        for name, value in expected.items():
            assert torch.equal(renamed[name], value), name

    def test_they_are_those_of_meta(self):
        """Of every kind of tensor one name as it is in Meta's files, so that a mistake cannot cancel itself out."""
        names = {
            "image_encoder.trunk.patch_embed.proj.bias": "vision_encoder.backbone.patch_embed.projection.bias",
            "image_encoder.trunk.pos_embed_window": "vision_encoder.backbone.pos_embed_window",
            "image_encoder.trunk.blocks.3.norm1.weight": "vision_encoder.backbone.blocks.3.layer_norm1.weight",
            "image_encoder.trunk.blocks.3.attn.proj.weight": "vision_encoder.backbone.blocks.3.attn.proj.weight",
            "image_encoder.trunk.blocks.3.proj.weight": "vision_encoder.backbone.blocks.3.proj.weight",
            "image_encoder.trunk.blocks.3.mlp.layers.1.bias": "vision_encoder.backbone.blocks.3.mlp.proj_out.bias",
            "image_encoder.neck.convs.2.conv.weight": "vision_encoder.neck.convs.2.weight",
            "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix": (
                "prompt_encoder.shared_embedding.positional_embedding"
            ),
            "sam_prompt_encoder.not_a_point_embed.weight": "prompt_encoder.not_a_point_embed.weight",
            "sam_prompt_encoder.mask_downscaling.4.bias": "prompt_encoder.mask_embed.layer_norm2.bias",
            "sam_mask_decoder.obj_score_token.weight": "mask_decoder.obj_score_token.weight",
            "sam_mask_decoder.transformer.layers.1.norm4.bias": "mask_decoder.transformer.layers.1.layer_norm4.bias",
            "sam_mask_decoder.transformer.layers.1.mlp.layers.0.bias": (
                "mask_decoder.transformer.layers.1.mlp.proj_in.bias"
            ),
            "sam_mask_decoder.transformer.layers.1.self_attn.out_proj.bias": (
                "mask_decoder.transformer.layers.1.self_attn.o_proj.bias"
            ),
            "sam_mask_decoder.transformer.norm_final_attn.bias": "mask_decoder.transformer.layer_norm_final_attn.bias",
            "sam_mask_decoder.output_upscaling.3.weight": "mask_decoder.upscale_conv2.weight",
            "sam_mask_decoder.iou_prediction_head.layers.0.bias": "mask_decoder.iou_prediction_head.proj_in.bias",
            "sam_mask_decoder.output_hypernetworks_mlps.3.layers.1.bias": (
                "mask_decoder.output_hypernetworks_mlps.3.layers.0.bias"
            ),
            "sam_mask_decoder.pred_obj_score_head.layers.2.bias": "mask_decoder.pred_obj_score_head.proj_out.bias",
            "memory_attention.norm.bias": "memory_attention.layer_norm.bias",
            "memory_attention.layers.3.cross_attn_image.k_proj.weight": (
                "memory_attention.layers.3.cross_attn_image.k_proj.weight"
            ),
            "memory_encoder.mask_downsampler.encoder.9.weight": "memory_encoder.mask_downsampler.layers.3.conv.weight",
            "memory_encoder.mask_downsampler.encoder.10.bias": (
                "memory_encoder.mask_downsampler.layers.3.layer_norm.bias"
            ),
            "memory_encoder.mask_downsampler.encoder.12.bias": "memory_encoder.mask_downsampler.final_conv.bias",
            "memory_encoder.pix_feat_proj.bias": "memory_encoder.feature_projection.bias",
            "memory_encoder.fuser.layers.1.dwconv.weight": "memory_encoder.memory_fuser.layers.1.depthwise_conv.weight",
            "memory_encoder.fuser.layers.1.pwconv2.bias": "memory_encoder.memory_fuser.layers.1.pointwise_conv2.bias",
            "memory_encoder.fuser.layers.1.gamma": "memory_encoder.memory_fuser.layers.1.scale",
            "memory_encoder.out_proj.bias": "memory_encoder.projection.bias",
            "maskmem_tpos_enc": "memory_temporal_positional_encoding",
            "no_mem_embed": "no_memory_embedding",
            "no_mem_pos_enc": "no_memory_positional_encoding",
            "no_obj_ptr": "no_object_pointer",
            "no_obj_embed_spatial": "occlusion_spatial_embedding_parameter",
            "obj_ptr_proj.layers.2.weight": "object_pointer_proj.proj_out.weight",
            "obj_ptr_tpos_proj.weight": "temporal_positional_encoding_projection_layer.weight",
            "mask_downsample.weight": "mask_downsample.weight",
        }
        for theirs, ours in names.items():
            assert ours in sam2_names.rename({theirs: torch.zeros(1)}), theirs

    @pytest.mark.parametrize("version", ["2", "2.1"])
    @pytest.mark.parametrize("name", PUBLISHED)
    def test_sizes_are_told_from_the_tensors(self, name: str, version: str):
        channels, blocks, global_blocks = PUBLISHED[name]
        state = sam2_models.meta_shapes(channels, sum(blocks), background=14 if name == "base_plus" else 7)
        if version == "2.1":
            state |= {"no_obj_embed_spatial": torch.zeros(0), "obj_ptr_tpos_proj.weight": torch.zeros(0)}
        config = transformers.Sam2VideoConfig(**sam2_names.read_settings(state, "file"))
        backbone = config.vision_config.backbone_config
        assert (backbone.hidden_size, backbone.blocks_per_stage) == (channels, blocks)
        assert backbone.global_attention_blocks == global_blocks
        assert backbone.num_attention_heads_per_stage == [(1 if channels == 96 else 2) << stage for stage in range(4)]
        assert backbone.window_size_per_stage == ([8, 4, 16, 8] if name == "large" else [8, 4, 14, 7])
        assert backbone.window_positional_embedding_background_size == ([14, 14] if name == "base_plus" else [7, 7])
        assert config.vision_config.backbone_channel_list == [channels << stage for stage in (3, 2, 1, 0)]
        assert config.enable_occlusion_spatial_embedding == (version == "2.1")
        assert config.enable_temporal_pos_encoding_for_object_pointers == (version == "2.1")

    def test_an_encoder_of_another_size(self):
        with pytest.raises(
            CheckpointError,
            match=r"x holds a SAM 2 .* 40 channels with 3 blocks; published are 96",
        ):
            sam2_names.read_settings(sam2_models.meta_shapes(40, 3), "x")


class TestLoad:
    @pytest.mark.parametrize("kind", TRACKERS)
    def test_a_folder(self, kind: str, folders: dict[str, Path]):
        model, _ = load_checkpoint(folders[kind], TRACKERS[kind])
        assert not model.training
        for name, value in sam2_models.build(kind).state_dict().items():
            assert torch.equal(model.state_dict()[name], value), name

    @pytest.mark.slow
    def test_the_tracker_in_a_published_sam3(self, tmp_path: Path):
        whole = sam2_models.save_sam3_video(tmp_path).state_dict()
        model, _ = load_checkpoint(tmp_path, SAM3)
        for name, value in model.state_dict().items():
            there = name.replace("vision_encoder.backbone", "detector_model.vision_encoder.backbone")
            there = there.replace("vision_encoder.neck", "tracker_neck")
            assert torch.equal(whole[there if there != name else f"tracker_model.{name}"], value), name

    @pytest.mark.parametrize("name", [None, "preprocessor_config.json", "processor_config.json"])
    def test_the_processor_of_images(self, name: str | None, folders: dict[str, Path], tmp_path: Path):
        for file in folders["sam2"].iterdir():
            (tmp_path / file.name).symlink_to(file)
        processor = transformers.Sam2ImageProcessor(image_mean=[0.1, 0.2, 0.3])
        if name is not None:
            whole = transformers.Sam2VideoProcessor(processor, transformers.Sam2VideoVideoProcessor())
            (processor if name == "preprocessor_config.json" else whole).save_pretrained(tmp_path)
            assert (tmp_path / name).is_file()
        expected = (0.485, 0.456, 0.406) if name is None else (0.1, 0.2, 0.3)
        assert tuple(load_checkpoint(tmp_path, SAM2).image_processor.image_mean) == expected

    def test_the_segmenter_of_a_video_model(self, folders: dict[str, Path]):
        model, _ = load_checkpoint(folders["sam2"], SAM2_IMAGE)
        expected = sam2_models.build("sam2").state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())

    def test_the_cache_of_the_hub(self, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        use_hub(monkeypatch, tmp_path)
        fill_cache(tmp_path, "facebook/sam2.1-hiera-tiny", folders["sam2"])
        load_checkpoint(f"facebook/sam2.1-hiera-tiny@{COMMIT}", SAM2)

    def test_the_cache_is_empty(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        use_hub(monkeypatch, tmp_path)
        with pytest.raises(CheckpointError, match=r"cannot get facebook/sam3: .*offline mode is on") as error:
            load_checkpoint("facebook/sam3", SAM3)
        assert 'video={"checkpoint": PATH}' in str(error.value) and "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("family", "given", "message"),
        [
            (SAM2, "edgetam", "must hold a model of type sam2_video, got edgetam_video"),
            (EDGETAM, "sam2", "must hold a model of type edgetam_video, got sam2_video"),
            (SAM3, "sam2", "must hold a model of type sam3_tracker_video or sam3_video, got sam2_video"),
        ],
    )
    def test_another_family(self, family, given: str, message: str, folders: dict[str, Path]):
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(folders[given], family)

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("config.json", None, r"has no config\.json; SAM 2 is a folder with config\.json"),
            ("model.safetensors", None, r"has no model\.safetensors"),
            ("config.json", b"{", "cannot read the SAM 2 in"),
            ("model.safetensors", b"<html>", "is an HTML page, not weights"),
            ("model.safetensors", b"", "is empty"),
            ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\nsize 5\n", "is a Git LFS pointer"),
        ],
        ids=["no config", "no weights", "broken JSON", "a web page", "empty", "a pointer"],
    )
    def test_damaged_folders(
        self, name: str, content: bytes | None, message: str, folders: dict[str, Path], tmp_path: Path
    ):
        for file in folders["sam2"].iterdir():
            if file.name != name:
                (tmp_path / file.name).symlink_to(file)
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=message) as error:
            load_checkpoint(tmp_path, SAM2)
        assert "\n" not in str(error.value)

    def test_weights_that_do_not_fill_the_model(self, folders: dict[str, Path], tmp_path: Path):
        state = sam2_models.build("sam2").state_dict()
        del state["memory_encoder.projection.bias"], state["shared_image_embedding.positional_embedding"]
        save_file({name: value.clone() for name, value in state.items()}, tmp_path / "model.safetensors")
        (tmp_path / "config.json").symlink_to(folders["sam2"] / "config.json")
        with pytest.raises(CheckpointError, match=r"lack memory_encoder\.projection\.bias"):
            load_checkpoint(tmp_path, SAM2)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "is empty"),
            (b"<!DOCTYPE html>", "is an HTML page"),
            (b"PK\x03\x04 cut off", "is damaged or cut off"),
            ({"model": {"mask_decoder.iou_token.weight": torch.zeros(1)}}, "holds Segment Anything"),
            ({"model": {"memory_encoder.projection.bias": torch.zeros(1)}}, "does not have the tensor names of Meta"),
            ({"epoch": 3}, "does not have the tensor names of Meta"),
            ({"model": {"image_encoder.trunk.pos_embed": torch.zeros(1)}}, "0 channels with 0 blocks; published are"),
        ],
        ids=["empty", "a web page", "cut off", "another network", "transformers' names", "no weights", "another size"],
    )
    def test_files_that_are_none_of_meta(self, content, message: str, tmp_path: Path):
        path = tmp_path / "sam2_hiera_tiny.pt"
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        with pytest.raises(CheckpointError, match=message) as error:
            load_checkpoint(path, SAM2)
        assert "\n" not in str(error.value) and str(path) in str(error.value)

    def test_files_are_for_sam2_alone(self, tmp_path: Path):
        torch.save({"model": {"image_encoder.trunk.pos_embed": torch.zeros(1)}}, tmp_path / "edgetam.pt")
        with pytest.raises(CheckpointError, match=r"is a file; EdgeTAM is a folder with config\.json"):
            load_checkpoint(tmp_path / "edgetam.pt", EDGETAM)


class TestLocate:
    @pytest.mark.parametrize(
        ("source", "family", "repository", "revision", "needed"),
        [
            ("facebook/sam2.1-hiera-tiny", SAM2, "facebook/sam2.1-hiera-tiny", None, "config.json"),
            ("facebook/sam3@main", SAM3, "facebook/sam3", "main", "config.json"),
            ("owner/name/sam2_hiera_large.pt@v1", SAM2_IMAGE, "owner/name", "v1", "sam2_hiera_large.pt"),
        ],
    )
    def test_repositories(self, source: str, family, repository: str, revision: str | None, needed: str):
        place = locate(source, family)
        assert isinstance(place, HubModel)
        assert (place.repo_id, place.revision, place.needed[0][0]) == (repository, revision, needed)

    @pytest.mark.parametrize(
        ("source", "family"), [("absent.pt", SAM2), ("a/b/c", SAM2), ("./absent", SAM2), ("owner/name/x.pt", EDGETAM)]
    )
    def test_what_is_not_there(self, source: str, family):
        with pytest.raises(CheckpointError, match=f"no such folder or file: {source}; .* or a hub id such as"):
            locate(source, family)

    def test_nothing_is_bundled(self):
        message = "section of kind sam2 has no bundled weights: name a checkpoint, such as facebook/sam2.1-hiera-tiny"
        with pytest.raises(ConfigError, match=message.replace("section", "segmenter")):
            segmenters.locate(SegmenterConfig(kind="sam2"))
        with pytest.raises(ConfigError, match=message.replace("section", "video")):
            trackers.locate(VideoConfig(kind="sam2"))

    def test_a_memory_of_segany_that_is_not_there(self):
        with pytest.raises(CheckpointError, match="no such file: absent; a video memory is bundled:tiny"):
            trackers.locate(VideoConfig(kind="segany", checkpoint="absent"))

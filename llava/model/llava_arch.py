"""From pixels and prompts to input embeddings: tower, projector, compression, newline tokens, splice."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from aot import AOTConfig, CompressedVideo, TokenKind, pool_tokens, pooled_grid
from aot.methods.in_llm import is_in_llm
from aot.patch_reuse import distinct_frames
from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX
from llava.model.compression import CapturePlan, TowerFlops, VideoFeatures, capture_plan, compress_video
from llava.model.language_model.configuration_llava_qwen import pool_of
from llava.model.long_video import CHUNK, STREAM_ABOVE, can_stream, compress_stream
from llava.model.multimodal_encoder.siglip_encoder import SigLipVisionTower, joined
from llava.model.multimodal_projector.builder import build_vision_projector
from llava.model.pruning import LayerCounts, roles_of
from llava.model.timing import Timing
from llava.model.visual_tokens import arrange_image, arrange_video, cut, pad_rows, splice_rows

EVERY_TOKEN = AOTConfig(retention=1.0, newlines="all")
TEXT_AND_NO_VIDEO = (
    "The prompt asks about a video or image, but images is None; pass the pixels in images, "
    f"or leave {DEFAULT_IMAGE_TOKEN} and the modality out for a text-only prompt."
)


class LlavaMetaModel:
    """Adds tower, projector and newline token to a transformers language model, under the published names.

    ``last_pruning``: what each layer saw of the visual tokens of each row of the last prompt, for methods that
    drop tokens inside the language model.
    """

    last_pruning: list[LayerCounts] = []

    def __init__(self, config):
        super().__init__(config)
        self.vision_tower = SigLipVisionTower(config)
        self.mm_projector = build_vision_projector(config)
        if "unpad" in (getattr(config, "mm_patch_merge_type", None) or "flat"):
            self.image_newline = nn.Parameter(torch.randn(config.hidden_size) * config.hidden_size**-0.5)

    def get_vision_tower(self) -> SigLipVisionTower:
        return self.vision_tower


class LlavaMetaForCausalLM:
    """The multimodal side of a causal language model whose ``get_model()`` is a `LlavaMetaModel`.

    ``last_compression``: CompressedVideo of every video of the last prompt, empty without one and without compression.
    ``last_timing``: milliseconds of the last call in "tower", "projector" and "compress". ``last_tower_flops``: counted
    operations of the tower in it, see `TowerFlops`. ``last_roles``: for methods
    that drop tokens inside the language model, (B, L) `Role` of each place of the last prepared prompts.
    """

    last_compression: list[CompressedVideo]
    last_timing: Timing
    last_tower_flops: TowerFlops
    last_roles: torch.Tensor | None

    def get_vision_tower(self) -> SigLipVisionTower:
        return self.get_model().get_vision_tower()

    def reset_statistics(self) -> None:
        self.last_compression = []
        self.last_timing = Timing(tower=0.0, projector=0.0, compress=0.0)
        self.last_tower_flops = TowerFlops(0, 0)
        self.last_roles, self.get_model().last_pruning = None, []

    @property
    def last_pruning(self) -> list[LayerCounts]:
        """Visual tokens that each layer saw, by prompt with visual tokens; empty unless tokens were dropped inside."""
        return self.get_model().last_pruning

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        """Pixels (n, 3, S, S) -> projected features (n, N, D)."""
        return self._encode(images, capture_plan(self.get_vision_tower(), None)).features

    def encode_video(self, pixels: torch.Tensor, *, plan: CapturePlan | None = None) -> VideoFeatures:
        """Pixels (F, 3, S, S) of one video -> its features, with what the settings of this moment read of the tower.

        Tower and projector only; ask with `video_tokens`, or pass the result in ``images`` as often as
        wanted. plan: what to capture, for a video that several methods will read.
        """
        self.reset_statistics()
        if plan is None:
            plan = capture_plan(self.get_vision_tower(), self.config.aot)
        return self._encode(pixels, plan)

    def video_tokens(self, video: VideoFeatures, *, trace: bool = False) -> tuple[torch.Tensor, CompressedVideo | None]:
        """Tokens (S, D) of one encoded video, newline tokens included, by the settings of this moment.

        The second value says where each token came from; None without compression. trace: with importance
        maps, plans and budgets for pictures.
        """
        self.last_compression, self.last_timing["compress"] = [], 0.0
        return self._video_tokens(video, trace=trace)

    def uncompressed_count(self, frames: int) -> tuple[int, int]:
        """(visual, newline) tokens of a video of so many frames without compression."""
        side = self.get_vision_tower().num_patches_per_side
        arrangement = self.arrangement()
        rows, columns = pooled_grid((side, side), arrangement["pool"])
        position = "no_token" if arrangement["newline"] is None else arrangement["newline_position"]
        return EVERY_TOKEN.token_count(frames, rows * columns, newline_position=position, rows=rows)

    def _video_tokens(
        self, video: VideoFeatures, *, trace: bool = False, retention: float | None = None
    ) -> tuple[torch.Tensor, CompressedVideo | None]:
        if isinstance(video, CompressedVideo):  # compressed while it was read
            self.last_compression.append(video)
            return video.tokens, video
        arrangement = self.arrangement()
        settings = self.config.aot
        if settings is None:
            pool = arrangement["pool"]
            pooled = pool_tokens(video.features, video.grid, pool).unflatten(1, pooled_grid(video.grid, pool))
            return arrange_video(pooled, arrangement["newline"], position=arrangement["newline_position"]), None
        if retention is not None:
            settings = settings.replace(retention=retention)
        with self.last_timing.stage("compress", video.features.device):
            result = compress_video(video, settings, **arrangement, trace=trace)
        self.last_compression.append(result)
        return result.tokens, result

    def arrangement(self) -> dict[str, Any]:
        """Pooling and newlines of a video by the fields as they are now, as `aot.compress` takes them."""
        merge = getattr(self.config, "mm_patch_merge_type", None) or "flat"
        position = getattr(self.config, "mm_newline_position", None) or "one_token"
        newline = getattr(self.get_model(), "image_newline", None)
        if merge == "flat" or (position == "one_token" and "unpad" not in merge):
            newline = None
        return {"pool": pool_of(self.config), "newline": newline, "newline_position": position}

    def _encode(self, pixels: torch.Tensor, plan: CapturePlan) -> VideoFeatures:
        tower, projector = self.get_vision_tower(), self.get_model().mm_projector
        tower.check_pixels(pixels)
        side, patches, frames = tower.num_patches_per_side, 0, len(pixels)
        which = range(frames)
        if plan.reuse is not None:
            with self.last_timing.stage("tower", tower.device):
                pixels, which = distinct_frames(pixels)
        wanted = {"received": set(plan.received.values()), "keys": set(plan.keys.values()), "reuse": plan.reuse}
        features, outputs = [], {name: [] for name in (*plan.received, *plan.keys)}
        # pass by pass through both: the tower's output and the inside of the projector are never held for all frames
        for part in pixels.split(tower.pass_length(plan.reuse)):
            with self.last_timing.stage("tower", tower.device):
                output = tower.encode(part, **wanted)
            with self.last_timing.stage("projector", tower.device):
                features.append(projector(output.features.to(next(projector.parameters()))))
            for name, layer in plan.received.items():
                outputs[name].append(output.received[layer])
            for name, layer in plan.keys.items():
                outputs[name].append(output.keys[layer])
            patches += output.patches
        whole = tower.flops(frames, frames * tower.num_patches)
        flops = TowerFlops(tower.flops(len(pixels), patches), whole)
        self.last_tower_flops += flops
        side_outputs = {name: joined(parts) for name, parts in outputs.items()}
        video = VideoFeatures.of(joined(features), (side, side), side_outputs)
        return replace(video if len(pixels) == frames else video.repeated(which), flops=flops)

    def encode_videos(self, pixels: list[torch.Tensor], *, plan: CapturePlan | None = None) -> list[VideoFeatures]:
        """Several videos in one tower pass, or one by one where features are reused in time or a plan is given.

        Without one, attention is captured only when compression is on. What a caller puts in its place counts.
        """
        tower = self.get_vision_tower()
        if plan is None and self.config.aot is not None and self.config.aot.tower_reuse:
            plan = capture_plan(tower, self.config.aot)
        if plan is not None:
            return [self._encode(one, plan) for one in pixels]
        together = torch.cat(pixels)
        if self.config.aot is not None:
            video = self._encode(together, capture_plan(tower, self.config.aot))
        else:  # what a caller puts in the place of encode_images counts
            video = VideoFeatures(self.encode_images(together), (tower.num_patches_per_side,) * 2)
        return video.split([len(one) for one in pixels])

    def _visual_tokens(self, images, modalities: list[str], image_sizes, retentions=None) -> list[torch.Tensor]:
        """Tokens (S, D) of every entry of images; videos are compressed one by one, images never."""
        images = [self._streamed(x, kind) for x, kind in zip(images, modalities, strict=True)]
        entries = [x[None] if isinstance(x, torch.Tensor) and x.ndim == 3 else x for x in images]
        new = [i for i, entry in enumerate(entries) if not isinstance(entry, VideoFeatures | CompressedVideo)]
        videos = [i for i in new if modalities[i] == "video"]
        stills = [i for i in new if modalities[i] != "video"]
        for i in (*videos, *stills):
            self.get_vision_tower().check_pixels(entries[i])
        features = dict(enumerate(entries))
        if videos:
            features |= zip(videos, self.encode_videos([entries[i] for i in videos]), strict=True)
        shares = [None] * len(entries) if retentions is None else retentions
        tokens = {i: self._video_tokens(features[i], retention=shares[i])[0] for i in features if i not in stills}
        if stills:
            newline, tile = getattr(self.get_model(), "image_newline", None), self.get_vision_tower().image_size
            encoded = self.encode_images(torch.cat([entries[i] for i in stills]))
            for i, tiles in zip(stills, encoded.split([len(entries[i]) for i in stills]), strict=True):
                size = None if image_sizes is None else image_sizes[i]
                tokens[i] = arrange_image(tiles, newline, self.config, tile=tile, size=size)
        return [tokens[i] for i in range(len(entries))]

    def _streamed(self, entry, modality: str):
        """A video in chunks, or of more than STREAM_ABOVE frames, as a `CompressedVideo` where that can be had."""
        settings = self.config.aot
        if isinstance(entry, Iterator):
            if settings is None:
                raise ValueError(
                    "A video in chunks is compressed while it is read; set config.aot, or give all its pixels."
                )
            return compress_stream(self, entry)
        long = isinstance(entry, torch.Tensor) and entry.ndim == 4 and len(entry) > STREAM_ABOVE
        if long and modality == "video" and can_stream(settings):
            return compress_stream(self, entry.split(CHUNK), frames=len(entry))
        return entry

    def prepare_inputs_labels_for_multimodal(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        past_key_values,
        labels: torch.Tensor | None,
        images,
        modalities: list[str] | str = ("image",),
        image_sizes=None,
        retentions: list[float | None] | None = None,
    ):
        """Input embeddings with the visual tokens in the place of the <image> marks.

        input_ids, attention_mask, position_ids, labels: (B, L) or None. images: a list whose entries are
        pixels (3, S, S) or (F, 3, S, S), a `VideoFeatures`, a `CompressedVideo`, or an iterator of chunks of a
        video's pixels (compressed while they come, see `compress_stream`), one per mark; or a (n, 3, S, S) tensor
        of n whole images (flat, no newline). modalities: "image" or "video" per entry, a string for all; entries
        past its end are images. image_sizes: (width, height) per entry, for images in several tiles. retentions: per
        entry, in the place of that of ``config.aot``.

        Returns (None, position_ids, attention_mask, past_key_values, embeds (B, L', D), labels); what was
        None stays None, except for a mask where rows had to be padded. Without images the inputs come back
        with embeds None. Raises ValueError for missing or unequal numbers of images, AOTError for a video whose
        features hold NaN or the like.
        """
        decoding = past_key_values is not None and input_ids is not None and input_ids.shape[1] == 1
        video_said = "video" in ([modalities] if isinstance(modalities, str) else modalities)
        if not decoding:
            self.reset_statistics()
        marked = images is None and input_ids is not None and bool((input_ids == IMAGE_TOKEN_INDEX).any())
        if marked or (images is None and video_said):
            raise ValueError(TEXT_AND_NO_VIDEO)
        if images is None or decoding:
            return input_ids, position_ids, attention_mask, past_key_values, None, labels
        # the tokens of each entry
        if isinstance(images, torch.Tensor) and images.ndim == 4:
            if video_said:
                raise ValueError("A (n, 3, S, S) tensor means n images; give a video as a list: images=[pixels].")
            visual = list(self.encode_images(images))
        else:
            entries = list(images)
            visual = self._visual_tokens(entries, _modality_of_each(modalities, len(entries)), image_sizes, retentions)
        # in the place of the marks, rows of one length
        rows = splice_rows(input_ids, attention_mask, labels, visual, self.get_model().embed_tokens)
        for video in self.last_compression:
            video.check()  # the splice has waited for the device
        rows = cut(rows, getattr(self.config, "tokenizer_model_max_length", None))
        side = getattr(self.config, "tokenizer_padding_side", "right")
        embeds, new_labels, mask, places = pad_rows(rows, side=side)
        if is_in_llm(self.config.aot):
            marks = splice_rows(input_ids, attention_mask, labels, self._droppable(visual), _no_marks)
            marks = [(mark[: len(row)], to[: len(row)]) for (mark, to), (row, _) in zip(marks, rows, strict=True)]
            self.last_roles = roles_of(marks, embeds.shape[1], side=side)
        if attention_mask is not None:
            mask = mask.to(attention_mask.dtype)
        elif len({len(row) for row, _ in rows}) == 1:
            mask = None
        position_ids = None if position_ids is None else places
        return None, position_ids, mask, past_key_values, embeds, None if labels is None else new_labels

    def _droppable(self, visual: list[torch.Tensor]) -> list[torch.Tensor]:
        """(S, 1) float of each visual entry, 1 at the tokens of videos; newlines and images are never dropped."""
        kinds = {id(result.tokens): result.kind for result in self.last_compression}
        marks = [
            kinds[id(tokens)] != TokenKind.NEWLINE if id(tokens) in kinds else _no_marks(tokens) for tokens in visual
        ]
        return [mark.float().view(-1, 1) for mark in marks]


def _no_marks(tokens: torch.Tensor) -> torch.Tensor:
    """(L, 1) float zeros, one for each token."""
    return torch.zeros(len(tokens), 1, device=tokens.device)


def _modality_of_each(modalities: list[str] | str, entries: int) -> list[str]:
    """ "image" or "video" for each entry; ValueError when a video is named that images does not hold."""
    named = [modalities] * entries if isinstance(modalities, str) else list(modalities)
    if isinstance(modalities, str) and not entries:
        named = [modalities]
    unknown = set(named) - {"image", "video", "text"}
    if unknown:
        raise ValueError(f"Unknown modality {sorted(unknown)[0]!r}; use 'image' or 'video'.")
    if "video" in named[entries:]:
        raise ValueError(TEXT_AND_NO_VIDEO.replace("images is None", f"images has only {entries} entries"))
    return (named + ["image"] * entries)[:entries]

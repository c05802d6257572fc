"""CLIPSeg: a phrase and a picture become a map of where, and features of it.

Source: T. Lüddecke and A. Ecker, "Image Segmentation Using Text and Image Prompts", CVPR 2022. The
model is that of transformers; RFC reads, beside its map, the features that its decoder ends in,
which the model does not return, so its parts are called here. Only the blocks below the deepest
activation that the decoder reads are computed (10 of 12 in the published model).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import interpolate

from fusionkit.errors import BadRequest

MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
SIDE = 352
"""Height and width at which CLIPSeg sees a picture."""


def prepared(picture: Tensor, side: int = SIDE) -> Tensor:
    """``(B, 1 or 3, H, W)`` in [0, 1] -> ``(B, 3, side, side)``: normalised, then resized.

    Bilinear with antialiasing, shape not kept, as the release does it.
    """
    mean, deviation = (picture.new_tensor(v).view(1, 3, 1, 1) for v in (MEAN, DEVIATION))
    x = (picture.expand(-1, 3, -1, -1) - mean) / deviation
    if x.shape[-2:] == (side, side):
        return x
    return interpolate(x, (side, side), mode="bilinear", align_corners=False, antialias=True)


def activations(model: nn.Module, pixels: Tensor) -> list[Tensor]:
    """What the decoder reads of the visual tower, ``(B, 1 + patches, D)``, the deepest last."""
    tower = model.clip.vision_model
    x = tower.pre_layrnorm(tower.embeddings(pixels, interpolate_pos_encoding=True))
    kept = {}
    wanted = list(model.extract_layers)
    for number, block in enumerate(tower.encoder.layers[: max(wanted) + 1]):
        x = block(x, None)
        if number in wanted:
            kept[number] = x
    return [kept[number] for number in wanted]


def phrases(model: nn.Module, tokenizer: Any, words: Sequence[str]) -> Tensor:
    """CLIP's text vectors of bare phrases, ``(B, D)``, not normalised."""
    tokens = tokenizer(list(words), padding=True, truncation=True, return_tensors="pt")
    device = next(model.parameters()).device
    return model.get_conditional_embeddings(
        batch_size=len(words),
        input_ids=tokens["input_ids"].to(device),
        attention_mask=tokens["attention_mask"].to(device),
    )


def region(model: nn.Module, seen: Sequence[Tensor], phrase: Tensor) -> tuple[Tensor, Tensor]:
    """Logits ``(B, 1, side, side)`` and feature grid ``(B, 64, h, w)`` of a phrase.

    Args:
        seen: :func:`activations`.
        phrase: text vectors, ``(B, D)``.
    """
    decoder = model.decoder
    x = 0
    for i, activation in enumerate(reversed(seen)):
        x = decoder.reduces[i](activation) + x
        if i == decoder.conditional_layer:
            x = decoder.film_mul(phrase)[:, None] * x + decoder.film_add(phrase)[:, None]
        x = decoder.layers[i](x, None)
    grid = as_grid(x)
    return decoder.transposed_convolution(grid), grid


def whole(model: nn.Module, seen: Sequence[Tensor]) -> Tensor:
    """Feature grid for the target "image": the deepest activation, reduced, told no phrase."""
    return as_grid(model.decoder.reduces[0](seen[-1]))


def as_grid(tokens: Tensor) -> Tensor:
    """``(B, 1 + h w, C)`` -> ``(B, C, h, w)`` without the class token; the picture was square."""
    side = round((tokens.shape[1] - 1) ** 0.5)
    return tokens[:, 1:].mT.unflatten(2, (side, side)).contiguous()


# ------------------------------------------------------------------------- the authors' own files

_BLOCK, _LAYER = r"model\.transformer\.resblocks\.(\d+)\.", r"clip.vision_model.encoder.layers.\1."
_RENAMED = (
    (r"model\.class_embedding$", "clip.vision_model.embeddings.class_embedding"),
    (r"model\.positional_embedding$", "clip.vision_model.embeddings.position_embedding.weight"),
    (r"model\.conv1\.weight$", "clip.vision_model.embeddings.patch_embedding.weight"),
    (r"model\.ln_pre\.", "clip.vision_model.pre_layrnorm."),
    (r"model\.ln_post\.", "clip.vision_model.post_layernorm."),
    (r"model\.proj$", "clip.visual_projection.weight"),
    (_BLOCK + r"attn\.", rf"{_LAYER}self_attn."),
    (_BLOCK + r"ln_", rf"{_LAYER}layer_norm"),
    (_BLOCK + r"mlp\.c_fc\.", rf"{_LAYER}mlp.fc1."),
    (_BLOCK + r"mlp\.c_proj\.", rf"{_LAYER}mlp.fc2."),
    (r"blocks\.(\d+)\.norm", r"decoder.layers.\1.layer_norm"),
    (r"blocks\.(\d+)\.linear", r"decoder.layers.\1.mlp.fc"),
    (r"blocks\.(\d+)\.self_attn\.", r"decoder.layers.\1.self_attn."),
    (r"(film_mul|film_add|reduces\.\d+)\.", r"decoder.\1."),
    (r"trans_conv\.", "decoder.transposed_convolution."),
)
"""Names of the released CLIPSeg (CLIP's own under ``model.``) -> names of transformers."""


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A released CLIPSeg state under the names of transformers.

    The layer ``reduce`` is in the files and unused, and CLIP's ends of the text tower are left out:
    transformers' model brings its own. Query, key and value are stored together in the files.

    Raises:
        BadRequest: a key that no CLIPSeg has.
    """
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        if re.match(r"reduce\.|model\.(token_embedding|ln_final|text_projection|logit_scale)", key):
            continue
        for pattern, name in _RENAMED:
            new, hit = re.subn(rf"^{pattern}", name, key)
            if hit:
                break
        else:
            raise BadRequest(f"{key!r} is no weight of CLIPSeg.")
        if new.endswith("visual_projection.weight"):
            value = value.T
        if ".in_proj_" in new:
            for part, rows in zip("qkv", value.chunk(3), strict=True):
                found[new.replace("in_proj_", f"{part}_proj.")] = rows
        else:
            found[new] = value
    return found


def load_decoder(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put the released decoder (``rd64-uni-refined.pth``) into a model of transformers.

    Raises:
        BadRequest: the file is of another form, or lacks a part of the decoder.
    """
    state = renamed(state)
    expected = model.state_dict()
    missing = [k for k in expected if k.startswith("decoder.") and k not in state]
    odd = [k for k in state if k not in expected or state[k].shape != expected[k].shape]
    if missing or odd:
        raise BadRequest(
            f"these weights do not fit this CLIPSeg (first of what differs: {(missing + odd)[0]}); "
            "rd64-uni-refined.pth fits CIDAS/clipseg-rd64-refined."
        )
    model.load_state_dict(state, strict=False)

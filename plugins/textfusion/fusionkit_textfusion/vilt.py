"""Words and patches read together by ViLT, as the authors' generator of association maps does.

Source: W. Kim et al., "ViLT: Vision-and-Language Transformer Without Convolution or Region
Supervision", ICML 2021, with the sizes of the generator that comes with TextFusion.
"""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fusionkit.errors import BadRequest, MissingWeights

WEIGHTS = "dandelin/vilt-b32-mlm-itm"
"""The checkpoint ``vilt_200k_mlm_itm`` in the form of the transformers package; Apache-2.0."""
SHORTER, LONGER = 384, 639


class Vilt:
    """A reader for the guide ``association``.

    Args:
        weights: name on the Hugging Face hub, or a folder with model and tokenizer.

    Raises:
        BadRequest: the transformers package is not installed.
        MissingWeights: the weights are not there and cannot be fetched.
    """

    def __init__(self, weights: str = WEIGHTS) -> None:
        try:
            from transformers import BertTokenizer, ViltModel
        except ImportError as error:
            raise BadRequest(
                "reader 'vilt' needs the transformers package: pip install 'fusionkit[hub]'."
            ) from error
        try:
            self.tokenizer = BertTokenizer.from_pretrained(weights)
            self.model = ViltModel.from_pretrained(weights, add_pooling_layer=False).eval()
        except OSError as error:
            raise MissingWeights(
                f"the weights of ViLT ({weights}) are not there and cannot be fetched: "
                f"{str(error).splitlines()[0]} Put them into a folder and pass it as weights, or "
                "use reader='encoder'."
            ) from error

    def __call__(self, sentence: str, picture: Tensor) -> tuple[list[str], Tensor, Tensor]:
        """Word-pieces, their features ``(L, D)``, features of the patches ``(D, h, w)``."""
        model, embeddings = self.model.to(picture.device), self.model.embeddings
        tokens = self.tokenizer(sentence, return_tensors="pt").to(picture.device)
        size = model.config.patch_size
        height, width = reading_size(*picture.shape[-2:], size)
        image = interpolate(
            picture.expand(-1, 3, -1, -1), (height, width), mode="bicubic", antialias=True
        )
        image = image.clamp(0, 1) * 2 - 1
        words = embeddings.text_embeddings(tokens.input_ids, tokens.token_type_ids)
        with torch.random.fork_rng(devices=[]):  # the patches come in an order drawn by chance
            patches, _, (places, _) = embeddings.visual_embed(
                image, image.new_ones(1, height, width, dtype=torch.long), max_image_length=-1
            )
        kinds = embeddings.token_type_embeddings.weight
        joined = torch.cat([words + kinds[0], patches + kinds[1]], 1)
        out = model.layernorm(model.encoder(joined).last_hidden_state)[0]
        count = words.shape[1]
        order = (places[0, :, 0] * (width // size) + places[0, :, 1]).argsort()
        grid = out[count + 1 :][order].T.unflatten(1, (height // size, width // size))
        pieces = self.tokenizer.convert_ids_to_tokens(tokens.input_ids[0].tolist())
        return pieces[1:-1], out[1 : count - 1], grid


def reading_size(height: int, width: int, multiple: int = 32) -> tuple[int, int]:
    """Shorter side 384, longer side at most 639, each cut to a multiple of the patch."""
    factor = min(SHORTER / min(height, width), LONGER / max(height, width))
    return tuple(
        max(1, int(side * factor + 0.5) // multiple) * multiple for side in (height, width)
    )

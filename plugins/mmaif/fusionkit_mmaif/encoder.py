"""Flan-T5's encoder as the bench's text encoder."""

import torch
from torch import nn

from fusionkit import hub
from fusionkit.batch import TextFeatures
from fusionkit.devices import pick_device


class FlanT5(nn.Module):
    """The last hidden state of every token of Flan-T5's encoder; frozen.

    ``pooled`` is the mean over the real tokens.

    Args:
        model: ``OWNER/NAME`` on the hub, or a folder; the paper does not say which size it uses.
        longest: tokens after which a prompt is cut.
        device: where it computes.

    Source: H. W. Chung et al., "Scaling Instruction-Finetuned Language Models", JMLR 2024.
    """

    def __init__(
        self, *, model: str = "google/flan-t5-base", longest: int = 64, device: str = "cpu"
    ) -> None:
        super().__init__()
        self.longest = longest
        self.model, self.tokenizer = hub.load(
            model,
            "T5EncoderModel",
            pick_device(device),
            "another encoder by name ('tiny-clip' comes with the program)",
            processor="AutoTokenizer",
        )
        self.text_dim = self.model.config.d_model

    @torch.no_grad()
    def encode_text(self, prompts: list[str]) -> TextFeatures:
        words = self.tokenizer(
            list(prompts),
            padding=True,
            truncation=True,
            max_length=self.longest,
            return_tensors="pt",
        ).to(self.model.device)
        states = self.model(
            input_ids=words["input_ids"], attention_mask=words["attention_mask"]
        ).last_hidden_state.float()
        mask = words["attention_mask"].bool()
        real = mask[..., None]
        pooled = (states * real).sum(1) / real.sum(1).clamp_min(1)
        return TextFeatures(pooled=pooled, tokens=states, mask=mask)

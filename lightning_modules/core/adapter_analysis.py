"""What adapters do in a forward pass: where they change what a layer says, and where it looks.

Paper A (Singh et al., MIDL 2026, 4.4) names overlapping attention as why merging fails, and does
not measure it.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import NamedTuple

import torch
from monai.networks.blocks import SABlock
from torch import Tensor, nn

from lightning_modules.core.adapters import PREFIX, activate, layers
from lightning_modules.core.conditioning import Conditioning
from lightning_modules.core.denoiser import Denoiser
from lightning_modules.core.inpainting import to_latent_mask


class Activity(NamedTuple):
    """One adapter's forward pass.

    Attributes:
        changes: for each layer what the adapter adds to its output, up to a factor, `(B, N, C)`
            with the N voxels of the layer's level.
        looks: for each self-attention block queries and keys, `(B, N, heads, C)` each.
        output: the network's answer, `(B, C, *latent)`.
    """

    changes: dict[str, Tensor]
    looks: dict[str, tuple[Tensor, Tensor]]
    output: Tensor


@torch.no_grad()
def record(
    denoiser: Denoiser, name: str, x_t: Tensor, timestep: Tensor, conditioning: Conditioning
) -> Activity:
    """Run the denoiser with one adapter alone, at strength 1, and keep what it did.

    That adapter stays the only active one.
    """
    changes: dict[str, Tensor] = {}
    heard: dict[str, Tensor] = {}

    def into(kept: dict[str, Tensor], key: str) -> object:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            kept[key] = output.detach().float()

        return hook

    activate(denoiser, {name: 1.0})
    blocks = {k: m for k, m in denoiser.unet.named_modules() if isinstance(m, SABlock)}
    with ExitStack() as hooks:
        for site, layer in layers(denoiser).items():
            part = layer.lora_B[name]
            key = site.removeprefix(PREFIX)
            hooks.enter_context(part.register_forward_hook(into(changes, key)))  # type: ignore[arg-type]
        for key, block in blocks.items():
            for side in ("to_q", "to_k"):
                hook = into(heard, f"{key}.{side}")
                hooks.enter_context(getattr(block, side).register_forward_hook(hook))
        output = denoiser(x_t, timestep, conditioning)

    def by_head(key: str, side: str) -> Tensor:
        values = heard[f"{key}.{side}"]
        return values.view(*values.shape[:2], blocks[key].num_heads, -1)

    looks = {
        key.removeprefix(PREFIX): (by_head(key, "to_q"), by_head(key, "to_k")) for key in blocks
    }
    return Activity(changes, looks, output)


def overlaps(first: Activity, second: Activity, base: Tensor, mask: Tensor) -> Mapping[str, Tensor]:
    """How far two adapters act on the same places inside a nodule.

    Args:
        first: of one adapter.
        second: of the other, for the same input.
        base: the network's answer without adapters, `(B, C, *latent)`.
        mask: `(B, 1, *spatial)`; the nodule, in voxels of the image.

    Returns:
        Scalars in [0, 1]: `change/<layer>`, see `change_overlap`, with the network's answer as
        `change/output`; `attention/<block>`, see `attention_overlap`.
    """
    figures = {}
    for site, change in first.changes.items():
        inside = _inside(mask, change.shape[1])
        figures[f"change/{site}"] = change_overlap(change, second.changes[site], inside)
    ours, theirs = ((a.output - base).flatten(2).mT for a in (first, second))
    figures["change/output"] = change_overlap(ours, theirs, _inside(mask, ours.shape[1]))
    for block, (query, key) in first.looks.items():
        inside = _inside(mask, query.shape[1])
        ours, theirs = attention(query, key), attention(*second.looks[block])
        figures[f"attention/{block}"] = attention_overlap(ours, theirs, inside)
    return figures


def change_overlap(first: Tensor, second: Tensor, inside: Tensor) -> Tensor:
    """Whether two adapters change the same places: cosine of how much they change each voxel.

    Args:
        first: one adapter's changes, `(B, N, C)`.
        second: the other's, of the same shape.
        inside: `(B, N)`; 1 in the nodule.

    Returns:
        A scalar in [0, 1], the mean over samples; 1 is the same places, 0 different ones, or no
        change.
    """
    ours, theirs = (inside * change.norm(dim=-1) for change in (first, second))
    product = (ours * theirs).sum(1)
    size = ours.norm(dim=1) * theirs.norm(dim=1)
    share = product / size.clamp(min=torch.finfo(size.dtype).tiny)
    # rounding leaves the cosine of equal changes a little above 1
    return torch.where(size > 0, share.clamp(max=1), 0.0).mean()


def attention(query: Tensor, key: Tensor) -> Tensor:
    """Self-attention maps `(B, heads, N, N)` of queries and keys `(B, N, heads, C)`."""
    scores: Tensor = torch.einsum("bqhc,bkhc->bhqk", query, key) / query.shape[-1] ** 0.5
    return scores.softmax(-1)


def attention_overlap(first: Tensor, second: Tensor, inside: Tensor) -> Tensor:
    """Whether the nodule's voxels look at the same places: shared mass of two attention maps.

    Args:
        first: one adapter's maps, `(B, heads, N, N)`.
        second: the other's.
        inside: `(B, N)`; 1 for the queries that count.

    Returns:
        A scalar in [0, 1], the mean over these queries; 1 is the same maps.
    """
    shared = torch.minimum(first, second).sum(-1).mean(1).clamp(max=1)
    return (shared * inside).sum() / inside.sum().clamp(min=1)


def localization_loss(output: Tensor, base: Tensor, mask: Tensor) -> Tensor:
    """Mean squared change of the network's answer outside the nodule, a scalar: the samples' mean.

    Args:
        output: with the adapter, `(B, C, *latent)`.
        base: without.
        mask: `(B, 1, *spatial)`; the nodule, in voxels of the image.
    """
    outside = 1 - to_latent_mask(mask, mask.shape[-1] // output.shape[-1])
    change = (output - base).square().mean(1, keepdim=True)
    each = (change * outside).flatten(1).sum(1) / outside.flatten(1).sum(1).clamp(min=1)
    return each.mean()


def _inside(mask: Tensor, voxels: int) -> Tensor:
    """The mask on a grid of so many voxels, `(B, voxels)`; 1 where the nodule touches one."""
    compression = (mask[0].numel() / voxels) ** (1 / (mask.ndim - 2))
    return to_latent_mask(mask, round(compression)).flatten(1)

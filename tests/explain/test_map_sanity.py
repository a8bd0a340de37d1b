"""A tower randomised block by block: what is left, in which order, and that the model itself stays."""

import copy

import torch
from open_clip.model import CustomTextCLIP
from small_tower import TEXT, VISION

from densityclip.explain.figures import EVERYTHING
from densityclip.explain.sanity import randomised, stages


def trunk_of(model: CustomTextCLIP) -> torch.nn.Module:
    return model.visual.trunk


def model() -> CustomTextCLIP:
    torch.manual_seed(5)
    return CustomTextCLIP(embed_dim=32, vision_cfg=VISION, text_cfg=TEXT).eval()


def changed(before: torch.nn.Module, after: torch.nn.Module) -> set[str]:
    pairs = zip(before.named_parameters(), after.parameters(), strict=True)
    return {name for (name, old), new in pairs if not torch.equal(old, new)}


def test_each_stage_randomises_one_part_more_from_the_output_to_the_input_and_the_model_stays():
    given = model()
    kept = copy.deepcopy(given)
    last = len(given.visual.trunk.blocks) - 1
    assert stages(given.visual.trunk) == ["norm", *[f"blocks.{n}" for n in range(last, -1, -1)], EVERYTHING]
    done: list[set[str]] = []
    for stage, now in randomised(given, trunk_of):
        parts = changed(given.visual.trunk, now.visual.trunk)
        if stage.startswith("blocks."):
            wanted = tuple(f"blocks.{n}." for n in range(int(stage.removeprefix("blocks.")), last + 1))
            assert all(name.startswith((*wanted, "norm.")) for name in parts)
            assert any(name.startswith(f"{stage}.attn") for name in parts)
        assert not done or done[-1] <= parts
        done.append(parts)
    assert {"patch_embed.proj.weight", "pos_embed"} <= done[-1]
    assert not changed(kept, given)


def test_a_randomised_tensor_holds_the_same_numbers_in_another_order():
    given = model()
    for stage, now in randomised(given, trunk_of):
        if stage == EVERYTHING:
            for old, new in zip(given.visual.trunk.parameters(), now.visual.trunk.parameters(), strict=True):
                assert torch.equal(old.flatten().sort().values, new.flatten().sort().values)
            assert not torch.allclose(
                given.encode_image(torch.ones(1, 3, 160, 160)), now.encode_image(torch.ones(1, 3, 160, 160))
            )


def test_the_same_seed_randomises_alike():
    given = model()
    first, second = (
        {stage: copy.deepcopy(now) for stage, now in randomised(given, trunk_of, seed=3)} for _ in range(2)
    )
    assert not changed(first[EVERYTHING], second[EVERYTHING])


def test_with_everything_randomised_the_projection_behind_the_trunk_is_too_and_draws_differ():
    given = model()
    (first,) = (copy.deepcopy(now) for _, now in randomised(given, trunk_of, 1, whole_only=True))
    assert changed(given.visual, first.visual) > {"head.proj.weight", "trunk.pos_embed"}
    (second,) = (copy.deepcopy(now) for _, now in randomised(given, trunk_of, 2, whole_only=True))
    assert changed(first.visual, second.visual) >= {"head.proj.weight", "trunk.blocks.0.attn.qkv.weight"}

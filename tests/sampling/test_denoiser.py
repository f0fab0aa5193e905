"""The parts a sampler's model is composed of, on networks that compute something simple."""

from __future__ import annotations

import pytest
import torch

from pipelines import Schedule
from sampling.conditioning import Conditioning, Encoded, Guidance
from sampling.denoiser import Denoiser
from sampling.inpaint import inpaint_channels, mask_at_pixels, masked_values
from sampling.masks import LatentMask, MaskSchedule
from sampling.program import NetworkCall, Tensors, run_alone
from sampling.schedule import DiscreteSchedule
from sampling.unet import Control, ControlModels, TextRows, UNet, v_to_denoised

SCHEDULE = DiscreteSchedule.of(Schedule())
X = torch.randn(1, 4, 3, 5, generator=torch.Generator().manual_seed(0))
SIGMA = 2.0


class Networks:
    """ε is the mean of the conditioning's numbers, plus all residuals' means; calls are kept."""

    def __init__(self) -> None:
        self.calls: list[NetworkCall] = []

    def __call__(self, call: NetworkCall) -> Tensors:
        self.calls.append(call)
        if call.network.startswith("control"):
            strength = call.inputs["conditioning_scale"][:, :, None, None]
            return {"down_residual_0": strength.expand(-1, 2, 3, 5)}
        level = call.inputs["encoder_hidden_states"].mean(dim=(1, 2))[:, None, None, None]
        residual = call.inputs.get("down_residual_0")
        if residual is not None:
            level = level + residual.mean(dim=(1, 2, 3), keepdim=True)
        return {"out_sample": level.expand_as(call.inputs["sample"][:, :4])}


def saying(value: float, weight: torch.Tensor | None = None, length: int = 77) -> Conditioning:
    return Conditioning(Encoded(torch.full((1, length, 2), value)), weight)


def denoiser(
    guidance: Guidance, cfg: float = 1.0, unet: UNet | None = None, **parts: object
) -> Denoiser:
    network = unet or UNet("unet", "epsilon", SCHEDULE)
    text = guidance.rows("sd1", 3, 5)
    return Denoiser(network, guidance, text, cfg, **parts)  # type: ignore[arg-type]


def predict(model: Denoiser, networks: Networks, sigma: float = SIGMA) -> torch.Tensor:
    return run_alone(model.predict(X, sigma), networks).denoised


def test_guidance_moves_away_from_the_negative() -> None:
    networks = Networks()
    made = predict(denoiser(Guidance((saying(1.0),), (saying(0.5),)), cfg=3.0), networks)
    torch.testing.assert_close(made, X - SIGMA * (0.5 + 3.0 * 0.5))
    assert networks.calls[0].rows == 2


def test_without_a_negative_one_row_is_enough() -> None:
    networks = Networks()
    made = predict(denoiser(Guidance((saying(1.0),), ())), networks)
    torch.testing.assert_close(made, X - SIGMA)
    assert networks.calls[0].rows == 1


def test_the_network_sees_scaled_x_and_the_nearest_timestep() -> None:
    networks = Networks()
    predict(denoiser(Guidance((saying(1.0),), ())), networks)
    inputs = networks.calls[0].inputs
    torch.testing.assert_close(inputs["sample"], X / 5**0.5)
    assert inputs["timestep"].tolist() == [[float(SCHEDULE.timestep(SIGMA))]]


def test_regions_are_averaged_by_mask_and_strength() -> None:
    left = torch.zeros(1, 1, 3, 5)
    left[..., :2] = 3.0  # strength 3
    made = predict(denoiser(Guidance((saying(1.0), saying(2.0, left)), ())), Networks())
    expected = torch.full((1, 1, 3, 5), 1.0)
    expected[..., :2] = (1.0 + 3.0 * 2.0) / 4.0
    torch.testing.assert_close(made, X - SIGMA * expected.expand_as(X))


def test_prompts_of_unequal_length_share_a_batch() -> None:
    rows = Guidance((saying(1.0, length=154),), (saying(0.0),)).rows("sd1", 3, 5)
    assert rows.context.shape == (2, 154, 2)


@pytest.mark.parametrize(
    ("family", "ids"),
    [
        ("sdxl", [[24, 40, 0, 0, 24, 40], [24, 40, 0, 0, 24, 40]]),
        ("sdxl_refiner", [[24, 40, 0, 0, 6.0], [24, 40, 0, 0, 2.5]]),
    ],
)
def test_size_conditioning(family: str, ids: list[list[float]]) -> None:
    one = Conditioning(Encoded(torch.zeros(1, 77, 2), torch.zeros(1, 6)))
    rows = Guidance((one,), (one,)).rows(family, 3, 5)
    assert rows.added["time_ids"].tolist() == ids
    assert rows.added["text_embeds"].shape == (2, 6)


def test_v_prediction_inverts_its_definition() -> None:
    clean, noise = torch.randn(2, 1, 4, 3, 5, generator=torch.Generator().manual_seed(1))
    alpha, spread = 1 / (SIGMA**2 + 1) ** 0.5, SIGMA / (SIGMA**2 + 1) ** 0.5
    v = alpha * noise - spread * clean
    torch.testing.assert_close(v_to_denoised(clean + SIGMA * noise, SIGMA, v), clean)


def control(strength: float, start: float = float("inf"), end: float = 0.0) -> Control:
    models = ControlModels(f"control_{strength}", "unet_control")
    return Control(models, torch.zeros(1, 3, 24, 40), strength, start, end)


CONTROLLED = UNet("unet", "epsilon", SCHEDULE, residuals={"down_residual_0": 2})


def test_one_controlnet_is_one_call_of_the_ensemble() -> None:
    networks = Networks()
    guidance = Guidance((saying(1.0),), (saying(0.0),))
    predict(denoiser(guidance, unet=CONTROLLED, controls=(control(0.5),)), networks)
    (call,) = networks.calls
    assert call.network == "unet_control"
    assert call.inputs["conditioning_scale"].tolist() == [[0.5], [0.5]]
    assert call.inputs["controlnet_cond"].shape == (2, 3, 24, 40)


def test_a_chain_adds_its_residuals() -> None:
    networks = Networks()
    chain = (control(0.5), control(0.25))
    guidance = Guidance((saying(1.0),), ())
    made = predict(denoiser(guidance, unet=CONTROLLED, controls=chain), networks)
    assert [call.network for call in networks.calls] == ["control_0.5", "control_0.25", "unet"]
    torch.testing.assert_close(made, X - SIGMA * (1.0 + 0.75))


def test_controlnets_act_between_their_sigmas() -> None:
    networks = Networks()
    model = denoiser(
        Guidance((saying(1.0),), ()), unet=CONTROLLED, controls=(control(1.0, 5.0, 1.0),)
    )
    for sigma in (6.0, 5.0, 1.0, 0.5):
        predict(model, networks, sigma)
    assert [call.network for call in networks.calls] == [
        "unet",
        "unet_control",
        "unet_control",
        "unet",
    ]
    assert networks.calls[0].inputs["down_residual_0"].shape == (1, 2, 1, 1)


def test_outside_the_mask_the_latent_is_kept() -> None:
    mask = torch.zeros(1, 1, 3, 5)
    mask[..., 2:] = 1
    latent, noise = torch.full_like(X, 7.0), torch.ones_like(X)
    networks = Networks()
    model = denoiser(Guidance((saying(1.0),), ()), mask=LatentMask(mask, latent, noise))
    made = predict(model, networks)
    assert torch.equal(made[..., :2], latent[..., :2])
    seen = networks.calls[0].inputs["sample"] * 5**0.5
    torch.testing.assert_close(seen[..., :2], latent[..., :2] + SIGMA)
    torch.testing.assert_close(seen[..., 2:], X[..., 2:])


def test_differential_diffusion_opens_the_mask_by_and_by() -> None:
    sigmas = [10.0, 3.0, 1.0, 0.1, 0.0]
    hardening = MaskSchedule.of_run(SCHEDULE, sigmas)
    thresholds = [hardening.threshold(sigma) for sigma in sigmas[:-1]]
    assert thresholds[0] == 1.0
    assert thresholds == sorted(thresholds, reverse=True)
    assert 0.0 < thresholds[-1] < 0.1
    mask = LatentMask(torch.tensor([[[[1.0, 0.5, 0.0]]]]), X, X, hardening)
    assert mask.at(10.0).tolist() == [[[[1.0, 0.0, 0.0]]]]
    assert mask.at(0.1).tolist() == [[[[1.0, 1.0, 0.0]]]]


@pytest.mark.parametrize("sigmas", [[0.0292, 0.0], [0.0295, 0.0292], [0.0, 0.0], [20.0, 14.7]])
def test_differential_diffusion_within_one_timestep_opens_nothing(sigmas: list[float]) -> None:
    mask = LatentMask(torch.ones(1, 1, 1, 3), X, X, MaskSchedule.of_run(SCHEDULE, sigmas))
    for sigma in sigmas:
        assert mask.at(sigma).tolist() == [[[[0.0, 0.0, 0.0]]]]


def test_inpainting_networks_get_five_more_channels() -> None:
    assert inpaint_channels(4, X, None, None) is None
    blank = inpaint_channels(9, X, None, None)
    assert blank is not None
    assert blank.shape == (1, 5, 3, 5)
    assert blank[0, :, 0, 0].tolist() == pytest.approx([1, 0.8223, -0.6876, 0.6364, 0.1380])
    mask = torch.full((1, 1, 3, 5), 0.6)
    fed = inpaint_channels(9, X, mask, X * 2)
    assert fed is not None
    assert torch.equal(fed[:, :1], torch.ones(1, 1, 3, 5))
    assert torch.equal(fed[:, 1:], X * 2)


def test_pixels_under_the_rounded_mask_become_grey() -> None:
    mask = mask_at_pixels(torch.ones(5, 6), 19, 26)
    assert mask.shape == (16, 24)
    mask[:, :12] = 0.4
    values = masked_values(torch.full((1, 3, 16, 24), 0.9), mask)
    assert float(values[..., :12].min()) == pytest.approx(0.9)
    assert float(values[..., 12:].max()) == 0.5


def test_inpainting_channels_join_the_sample_alone() -> None:
    networks = Networks()
    unet = UNet("unet", "epsilon", SCHEDULE, channels=9, residuals={"down_residual_0": 2})
    concat = inpaint_channels(9, X, None, None)
    model = denoiser(
        Guidance((saying(1.0),), ()), unet=unet, controls=(control(1.0),), concat=concat
    )
    predict(model, networks)
    assert networks.calls[0].inputs["sample"].shape == (1, 9, 3, 5)
    assert networks.calls[0].inputs["control_sample"].shape == (1, 4, 3, 5)


def test_text_rows_count_their_prompts() -> None:
    assert len(TextRows(torch.zeros(3, 77, 2))) == 3

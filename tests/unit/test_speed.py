"""How fast a stage trains: tokens over the time they took, and the share of a known peak."""

import pytest

from juicer.data.dialogues import Dialogue
from juicer.runtime.context import WorkContext
from juicer.runtime.devices import DEVICES, device_by_name, gpu_called
from juicer.settings.training import LoraSettings
from juicer.stages.speed import Speed
from juicer.training.adapters import add_adapters
from juicer.training.utilisation import operations_per_response_token


def timed(reports, peak_share=None):
    """The costs after tokens were reported at given seconds, in pieces of training."""
    clock = iter([second for piece in reports for second, _ in piece])
    speed = Speed(lambda: next(clock))
    for piece in reports:
        speed.begin(peak_share)
        for _, count in piece:
            WorkContext(observers=(speed,)).emit_tokens(count)
    return speed.costs()


def test_the_clock_starts_with_the_first_report():
    assert timed([[(100.0, 50), (102.0, 30), (104.0, 10)]]) == {"training_tokens_per_second": 10.0}


def test_what_lies_between_two_pieces_of_training_does_not_count():
    pieces = [[(0.0, 5), (1.0, 20)], [(1000.0, 5), (1001.0, 40)]]
    assert timed(pieces) == {"training_tokens_per_second": 30.0}


@pytest.mark.parametrize("reports", [[], [[]], [[(3.0, 100)]]])
def test_too_few_reports_say_nothing_of_speed(reports):
    assert timed(reports) == {}


def test_mfu_is_the_rate_times_the_share_at_one_token_per_second():
    assert timed([[(0.0, 0), (2.0, 100)]], peak_share=0.004)["mfu"] == 0.2


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("NVIDIA A100-SXM4-40GB", "A100-40GB"),
        ("NVIDIA A100 80GB PCIe", "A100-80GB"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA H100 NVL", "H100-NVL"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA GeForce RTX 4090", "RTX4090"),
        ("NVIDIA GeForce RTX 3090", "RTX3090"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("Tesla T4", "T4"),
        ("Tesla V100-SXM2-16GB", "V100-16GB"),
        ("NVIDIA RTX A6000", "A6000"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX6000-Ada"),
        ("NVIDIA H200 NVL", "H200-NVL"),
        ("NVIDIA B200", "B200"),
        ("AMD Instinct MI300X", "MI300X"),
    ],
)
def test_devices_are_known_by_the_names_that_cuda_gives_them(name, key):
    assert device_by_name(name) is DEVICES[key]


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA GeForce GT 710",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 3090 Ti",
        "Quadro RTX 6000",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
    ],
)
def test_a_device_without_a_data_sheet_is_not_guessed_nor_is_a_part_of_one(name):
    assert device_by_name(name) is None


@pytest.mark.parametrize(
    ("written", "key"),
    [
        ("A100", "A100-80GB"),
        ("a100-40", "A100-40GB"),
        ("A100 80GB", "A100-80GB"),
        ("NVIDIA A100-SXM4-40GB", "A100-40GB"),
        ("V100", "V100-16GB"),
        ("t4", "T4"),
        ("3090", "RTX3090"),
        ("RTX3090", "RTX3090"),
        ("rtx 4090", "RTX4090"),
        ("RTX-5090", "RTX5090"),
        ("a10", "A10"),
        ("A10G", "A10G"),
        ("L4", "L4"),
        ("h100 pcie", "H100-PCIe"),
        ("mi300x", "MI300X"),
        ("H100 SXM", "H100"),
        ("A100 SXM", "A100-80GB"),
        ("A100 PCIe", "A100-80GB"),
        ("nvidia A100", "A100-80GB"),
        ("A100-40G", "A100-40GB"),
        ("4090 24 GB", "RTX4090"),
        ("T4 16GB", "T4"),
        ("H10", None),
        ("A100-64GB", None),
        ("4090 48 GB", None),
        ("4090D", None),
    ],
)
def test_gpus_are_known_by_the_names_that_people_give_them(written, key):
    assert gpu_called(written) == key


def test_only_response_tokens_reach_the_head_and_embeddings_are_looked_up(policy):
    head = policy.get_output_embeddings().weight.numel()
    trunk = sum(parameter.numel() for parameter in policy.base_model.parameters())
    trunk -= policy.get_input_embeddings().weight.numel()
    dialogues = [Dialogue([1, 2, 3], [4]), Dialogue([1], [4, 5, 6])]
    assert operations_per_response_token(policy, dialogues) == pytest.approx(6 * (2 * trunk + head))


def test_frozen_weights_cost_no_gradient_of_their_own(policy):
    dialogues = [Dialogue([1], [2])]
    all_train = operations_per_response_token(policy, dialogues)
    add_adapters(policy, LoraSettings(r=1), seed=0)
    adapters = operations_per_response_token(policy, dialogues)
    assert adapters == pytest.approx(all_train * 4 / 6, rel=0.1)


def test_frozen_lowest_blocks_are_only_passed_forward(policy):
    dialogues = [Dialogue([1], [2, 3])]
    before = operations_per_response_token(policy, dialogues)
    lowest = policy.base_model.layers[0]
    policy.get_input_embeddings().requires_grad_(False)
    lowest.requires_grad_(False)
    saved = 4 * sum(parameter.numel() for parameter in lowest.parameters()) * 3 / 2
    assert operations_per_response_token(policy, dialogues) == pytest.approx(before - saved)

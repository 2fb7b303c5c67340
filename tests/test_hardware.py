"""What each metric was measured on: a field of the metric, not of its table."""

import pytest

from code_rlm.data.readers import COMPUTED, TASKS, device_name
from code_rlm.data.schema import DataError


@pytest.mark.parametrize(
    ("task", "metric", "expected"),
    [
        ("bhive_zen4", "cycles", "AMD Zen 4, one core"),
        ("nasbench201", "latency_ms@pixel3", "Google Pixel 3"),
        ("nasbench201", "latency_ms@1080ti_256", "NVIDIA GTX 1080 Ti, batch 256"),
        ("nasbench201", "latency_ms@titan_rtx_1", "NVIDIA Titan RTX, batch 1"),
        ("nasbench201", "cifar10_test_accuracy_percent", ""),
        ("nasbench201", "flops_count", COMPUTED),
        ("nasbench101", "cifar10_valid_accuracy_percent", "TPU v2 (training)"),
        ("ofa", "latency_ms@titan_xp_64", "NVIDIA Titan Xp, batch 64"),
        ("timm_speed", "inference_step_ms@rtx3090", "rtx3090"),
    ],
)
def test_when_a_metric_is_asked_for_then_its_own_hardware_is_named(task, metric, expected):
    assert TASKS[task].hardware_of(metric) == expected


def test_when_a_metric_names_a_device_then_the_device_has_a_name_for_people():
    for task in TASKS.values():
        for metric in (*task.metrics, *task.extra_metrics):
            name, _, device = metric.partition("@")
            if name == "latency_ms" and device:
                assert device_name(device) != device, f"{task.name}: {metric}"


def test_when_the_task_has_no_such_metric_then_its_metrics_are_listed():
    with pytest.raises(DataError, match=r"bhive_zen4 has no metric 'joules'; it has cycles"):
        TASKS["bhive_zen4"].hardware_of("joules")

"""How runs differ from the paper's, and whether they have learnt enough to be
judged."""

import numpy as np

from experiments import trained
from experiments.trained.against_paper import differences
from tests.experiments.fakes import CONFIG, fake_run


def test_differences_are_computed() -> None:
    narrow = CONFIG | {"network": CONFIG["network"] | {"width": 0.25}, "images": 5_000}
    pair = CONFIG | {"classes": ["dog", "cat"], "images": 10_000, "batch_size": 32}
    found = differences({"narrow": narrow, "pair": pair})
    assert found == [
        "width 0.25 (paper: 1): VGG11, 64 filters",
        "images 5,000 (paper: 50,000): VGG11, 64 filters",
        "batch size 32 (paper: 256): VGG11, 64 filters, dog / cat",
    ]
    assert (
        differences({"a": narrow | {"epochs": 30}, "b": narrow})[0]
        == "width 0.25 (paper: 1)"
    )
    assert "schedule cosine (paper: constant)" in differences(
        {"": narrow | {"schedule": "cosine"}}
    )
    shuffled = CONFIG | {"shuffled_labels": 0}
    assert differences({"": shuffled}) == ["epochs 30 (paper: 100)"]
    # No images a class are known of other data; a network of the paper's is none, and
    # lacks what it does not have.
    assert differences({"": CONFIG | {"dataset": "photographs", "images": 6}}) == [
        "dataset photographs (paper: cifar10)"
    ]
    residual = CONFIG["network"] | {"name": "ResNet", "depth": 18, "dropout": None}
    assert differences({"": CONFIG | {"network": residual}}) == []
    found = differences({"": CONFIG | {"network": residual | {"depth": 20}}})
    assert found == ["network ResNet20 (paper: VGG11)"]


def test_accuracies_at_the_end() -> None:
    arrays = fake_run("one", 0, (0, 1, 2)) | fake_run(
        "two", 1, (0, 1, 2), classes=["dog", "cat"], images=10_000
    )
    arrays["one/accuracy"] = np.array(
        [[0.1, 0.5, 0.9], [0.2, 0.5, 1.0], [0.3, 0.5, 0.95]]
    )
    arrays["two/accuracy"] = np.array(
        [[1.0, 1.0, 0.95], [1.0, 1.0, 0.99], [1.0, 1.0, 0.89]]
    )
    arrays["two/validation_accuracy"] = arrays["two/accuracy"] / 2
    summary = trained.summarize(arrays, [], [])
    assert summary["runs"] == [
        {
            "run": "VGG11, 64 filters",
            "training_accuracy": [0.9, 1.0, 0.95],
            "judged": True,
        },
        {
            "run": "VGG11, 64 filters, dog / cat",
            "training_accuracy": [0.95, 0.99, 0.89],
            "judged": False,
            "validation_accuracy": [0.475, 0.495, 0.445],
        },
    ]
    assert [(row.value, row.passed) for row in summary["checks"]] == [
        (0.9, True),
        (0.89, False),
    ]
    assert trained.summarize(arrays, [], [], trained_to_the_end=False)["checks"] == []


def test_runs_of_one_title_are_told_apart_in_a_summary() -> None:
    arrays = fake_run("one", 0, (0, 1), batch_size=16)
    arrays |= fake_run("two", 1, (0, 1))
    titles = ["VGG11, 64 filters, batch size 16", "VGG11, 64 filters, batch size 256"]
    summary = trained.summarize(arrays, [], [])
    assert [row["run"] for row in summary["runs"]] == titles
    assert [one.title for one in summary["checks"]] == [
        f"lowest training accuracy, {title}" for title in titles
    ]
    assert summary["differs_from_paper"] == [f"batch size 16 (paper: 256): {titles[0]}"]
    assert list(trained.titles(arrays).values()) == titles

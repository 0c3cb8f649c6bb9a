"""What a killed process left half-written in a run folder."""

from pathlib import Path

from hvae_jax.experiment import contents


def test_half_written_files_of_ours_are_swept_away(tmp_path: Path) -> None:
    """And nothing else, whatever it is called."""
    (tmp_path / "pictures").mkdir()
    ours = [
        "settings.json",
        "metrics.jsonl",
        "result.json",
        "samples.png",
        "pictures/samples_00000006.png",
        "write_test",
    ]
    others = ["mine.partial", "settings.json", "checkpoints.txt"]
    for name in [*(f"{name}.partial" for name in ours), *others]:
        (tmp_path / name).write_text("{")
    contents.sweep(tmp_path)
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == sorted(others)

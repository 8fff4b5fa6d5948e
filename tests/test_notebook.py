"""The notebook: that it runs as it stands, and keeps its pictures."""

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

NOTEBOOK = Path(__file__).resolve().parents[1] / "examples" / "explore.ipynb"


@pytest.mark.slow
def test_it_runs_from_top_to_bottom():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    # A cell that fails raises; the notebook checks its own update against the trainer's.
    resources = {"metadata": {"path": str(NOTEBOOK.parent)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute()
    printed = "".join(o.get("text", "") for cell in notebook.cells for o in cell.get("outputs", ()))
    assert "Starting TensorFlow" not in printed  # it is no script, whose interrupt ends it


def test_it_finds_the_project_from_its_folder_and_from_the_root(monkeypatch):
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    first = next(cell.source for cell in cells if cell.cell_type == "code")
    for folder in NOTEBOOK.parents[:2]:
        monkeypatch.chdir(folder)
        exec(first, found := {})
        assert found["ROOT"] == NOTEBOOK.parents[1]


def test_it_keeps_its_outputs_and_stays_small():
    cells = [c for c in nbformat.read(NOTEBOOK, as_version=4).cells if c.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 6
    assert NOTEBOOK.stat().st_size < 1_500_000

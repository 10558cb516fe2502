import io

from rich.console import Console

from batchcube.calibration.coefficients import DecodeNodes
from batchcube.sweeps.calibrate.report import print_coefficients
from batchcube.sweeps.spec.service import load


def test_of_a_table_the_nodes_are_shown_that_no_line_meets() -> None:
    known = load("llama-3.1-8b-h100-vllm-tables")
    assert known.step_law is not None
    table = DecodeNodes(requests=[0, 1, 4, 8, 16], s=[0.002, 0.003, 0.006, 0.007, 0.009], s_per_kv_token=[1e-7] * 5)
    bent = known.model_copy(update={"step_law": known.step_law.model_copy(update={"decode": table})})
    out = io.StringIO()
    print_coefficients(bent, Console(file=out, width=110), None)
    decodes = out.getvalue().partition("decodes")[2].partition("prefill tokens")[0]
    rows = [
        line.split()
        for line in decodes.partition("\N{BOX DRAWINGS LIGHT HORIZONTAL}\n")[2].splitlines()
        if line.strip()
    ]
    assert [tuple(row[:2]) for row in rows if row[0].isdigit()] == [("0", "2"), ("4", "6"), ("16", "9")]

"""Write the numbers and pictures of docs/evaluation.md for a checkpoint, and add rows.

python docs/evaluation.py CKPT --shards DIR --split test --data "bccd, trainval to test" --results FILE
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click
import matplotlib
from matplotlib.figure import Figure

from dataforge.analysis.charts import STYLE
from dataforge.bench.measure import record_rows
from dataforge.loading.loader import Loader
from trainers.checkpoint import load_detector
from trainers.results import evaluation_charts
from trainers.results.calibration import calibration
from trainers.results.diagnosis import errors
from trainers.results.evaluation import run
from trainers.results.explain import explanation, explanation_text
from trainers.results.protocol import PROTOCOLS, average_precision, judge
from trainers.results.truth import truth_of_shards

PICTURES = Path(__file__).parent / "pictures"


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--shards", required=True, type=click.Path(path_type=Path))
@click.option("--split", default="test", show_default=True)
@click.option("--data", required=True, help="The data, in words, for the rows.")
@click.option("--results", required=True, type=click.Path(path_type=Path), help="Rows are added to this file.")
@click.option("--pictures", default=PICTURES, type=click.Path(path_type=Path))
def main(checkpoint: Path, shards: Path, split: str, data: str, results: Path, pictures: Path) -> None:
    """Evaluate CHECKPOINT; print the explanation, draw the charts, and add rows."""
    detector, facts = load_detector(checkpoint)
    loader = Loader(shards, split=split, batch_size=8, size=tuple(facts["size"]), fit=facts["fit"], shuffle=False)
    truth, predictions = truth_of_shards(loader.shards), run(detector, loader, "cpu")
    judged = judge(truth, predictions, PROTOCOLS["coco50"])
    kinds, sure = errors(judged), calibration(judged)
    pictures.mkdir(parents=True, exist_ok=True)
    for name, paint in (
        ("errors", partial(evaluation_charts.errors, result=kinds)),
        ("calibration", partial(evaluation_charts.reliability, result=sure)),
    ):
        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=(6, 3.8), layout="constrained")
            paint(figure.subplots())
            figure.savefig(pictures / f"evaluation_{name}.png")
    values = {f"AP by the rules of {name}": average_precision(truth, predictions, p) for name, p in PROTOCOLS.items()}
    values |= {f"gain in AP50 without errors of the kind {kind}": gain for kind, gain in kinds.gains.items()}
    values |= {"D-ECE": sure.error, "temperature": sure.temperature, "D-ECE at this temperature": sure.error_after}
    name = f"{facts['detector']} on {data.partition(',')[0]}"
    rows = [{"name": f"{name}: {what}", "value": round(v, 4), "unit": "", "runs": 1} for what, v in values.items()]
    record_rows([row | {"data": data} for row in rows], results)
    click.echo(explanation_text(explanation(truth, predictions)))


if __name__ == "__main__":
    main()

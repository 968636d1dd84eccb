"""The command line of Auricle, thin over the packages."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from warehouse import ending, store
from warehouse.store import UserError
from warehouse.terminal import Bars, Format, print_frame, print_table

if TYPE_CHECKING:
    from ingest.run import Spread
    from ingest.study import Study

app = typer.Typer(
    help="What do the neurons of audio networks listen to? Ingest once, query with SQL, publish an offline atlas.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Warehouse = Annotated[
    Path,
    typer.Option(
        "--warehouse", envvar="AURICLE_WAREHOUSE", parser=store.warehouse_path, metavar="PATH", help="The warehouse's database file."
    ),
]
PATH: dict[str, Any] = {"parser": store.given_path, "metavar": "PATH"}
STUDY: dict[str, Any] = {"parser": store.given_path, "metavar": "STUDY", "show_default": False}
WAREHOUSE = Path("warehouse/auricle.duckdb")
SITE = Path("site")
ERRORS = Bars(sys.stderr)


@app.command()
def demo(warehouse: Warehouse = WAREHOUSE, site: Annotated[Path, typer.Option(**PATH, help="Folder of the atlas.")] = SITE) -> None:
    """Synthesise the starter sounds, run YAMNet over them, and render the atlas."""
    from ingest.study import DatasetChoice, NetworkChoice, Study

    _ingest(warehouse, Study((DatasetChoice("starter"),), (NetworkChoice("yamnet"),)))
    report(None, warehouse, site)
    print(f"Open {site / 'index.html'} in a browser.")


@app.command()
def ingest(
    study: Annotated[Path | None, typer.Argument(**STUDY, help="A study file (TOML) in place of the flags.")] = None,
    file: Annotated[Path | None, typer.Argument(**STUDY | {"metavar": "FILE"}, help="With `ratings`: answers of a rating page.")] = None,
    network: Annotated[
        list[str] | None, typer.Option(help="One of `auricle networks`, a folder or hub name, or FILE.py:function; repeatable.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="A reader of `auricle datasets`.")] = None,
    source: Annotated[Path | None, typer.Option(**PATH, help="Folder of the data set.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the data set; the reader's own by default.")] = None,
    weights: Annotated[Path | None, typer.Option(**PATH, help="Checkpoint to use in place of the fetched one.")] = None,
    clip_s: Annotated[float | None, typer.Option("--clip-seconds", help="Seconds of each clip the network hears.")] = None,
    layers: Annotated[list[str] | None, typer.Option("--layer", help="Layer to record, all by default; repeatable.")] = None,
    saes: Annotated[list[str] | None, typer.Option("--sae", help="Sparse autoencoder whose latents are a layer, repeatable.")] = None,
    positions: Annotated[
        bool, typer.Option("--positions", help="Take every position of the convolutions as a neuron, beside single units.")
    ] = False,
    dtype: Annotated[str, typer.Option(help="Type of the stored matrices: auto, float16 or float32.")] = "auto",
    precision: Annotated[str, typer.Option(help="Precision of the forward pass: float32, bfloat16 or float16.")] = "float32",
    top_k: Annotated[int, typer.Option(help="Highest and lowest clips kept per neuron.")] = 20,
    stages: Annotated[list[str] | None, typer.Option("--stage", help="Stage to do; clips and activations by default, repeatable.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    batch: Annotated[int | None, typer.Option(help="Clips per forward pass; by default 8, on a GPU 64.")] = None,
    bert_encoder: Annotated[
        str | None,
        typer.Option(help="With `ratings`: folder or hub name of BERTScore's encoder, all-MiniLM-L6-v2 by default.", show_default=False),
    ] = None,
    rehash: Annotated[bool, typer.Option("--rehash", help="Hash sound files again that look unchanged.")] = False,
    cluster: Annotated[str | None, typer.Option(help="Address of a Ray cluster that does the work.", show_default=False)] = None,
    gpus: Annotated[str | None, typer.Option(help="all, or how many of this machine's GPUs do the work.", show_default=False)] = None,
    part: Annotated[str | None, typer.Option(help="K/N: measure this share of the segments only, for `merge`.", show_default=False)] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 when anything failed.")] = False,
    warehouse: Warehouse = WAREHOUSE,
) -> None:
    """Bring sounds and networks into the warehouse. Interrupted work is continued, finished work is not done again."""
    from ingest.study import check_study, given, of_flags, read_study

    if study == Path("ratings"):
        from ingest.stages.ratings import ingest_ratings

        if file is None:
            raise UserError("no file of answers is named: auricle ingest ratings FILE")
        print(f"{ingest_ratings(warehouse, file, bert_encoder)} ratings read")
        return
    if bert_encoder:
        raise UserError("--bert-encoder goes with ratings: auricle ingest ratings FILE --bert-encoder FOLDER")
    if file:
        raise UserError(f"one study file at a time, not {file} as well")
    if study and (network or dataset or source):
        raise UserError("a study file and flags for networks or data sets were given: use one of the two")
    heard = {"weights": weights, "clip_s": clip_s, "layers": layers or None, "positions": positions}
    recorded = given(dtype=dtype, precision=precision, top_k=top_k, device=device, batch=batch)
    data = given(reader=dataset, source=source, name=name)
    plan = read_study(study) if study else of_flags(data, network or (), heard, saes or (), recorded, stages)
    if study and stages:
        plan = check_study(replace(plan, stages=tuple(stages)), "ingest")
    if part:
        from ingest.cluster import measure_part

        return measure_part(warehouse, plan, part, Bars())
    plan = plan.changed("clips", rehash=True) if rehash else plan
    spread = None
    if (cluster, gpus, plan.cluster.address) != (None, None, None):
        from ingest.cluster import chosen

        spread = chosen(plan.cluster, cluster, gpus)
    if _ingest(warehouse, plan, spread) and strict:
        raise typer.Exit(1)


@app.command()
def merge(study: Annotated[Path, typer.Argument(**STUDY, help="The study file of the parts.")], warehouse: Warehouse = WAREHOUSE) -> None:
    """Finish activations whose segments `ingest --part` has measured, and measure none."""
    from ingest.cluster import parts_only
    from ingest.study import read_study

    plan = replace(read_study(study), stages=("activations",))
    _ingest(warehouse, plan, parts_only(plan.cluster))


def _ingest(warehouse: Path, study: Study, spread: Spread | None = None) -> int:
    from ingest.run import run_study

    failures = run_study(warehouse, study, Bars(), spread)
    if failures:
        print(f'{failures} failures. List them: auricle query "SELECT stage, item, reason FROM failure" --warehouse {warehouse}')
    return failures


@app.command()
def train(
    base: Annotated[str, typer.Argument(help="cnn, yamnet, whisper-tiny.en, ast or beats; or sae, a sparse autoencoder.")],
    way: Annotated[str, typer.Argument(help="scratch (cnn), frozen (a new classifier alone) or fine-tuned (all of it); of sae the layer.")],
    study: Annotated[Path | None, typer.Argument(**STUDY, help="A study file with the data set, in place of the flags.")] = None,
    dataset: Annotated[str | None, typer.Option(help="A reader of `auricle datasets`.")] = None,
    source: Annotated[Path | None, typer.Option(**PATH, help="Folder of the data set.")] = None,
    folds: Annotated[int | None, typer.Option(help="Draw so many folds; say the same in the study then.", show_default=False)] = None,
    fold: Annotated[int | None, typer.Option(help="Fold to leave out and test on, the last by default.", show_default=False)] = None,
    weights: Annotated[str | None, typer.Option(help="Of ast a folder or hub name, else a checkpoint.", show_default=False)] = None,
    clip_s: Annotated[
        float | None, typer.Option("--clip-seconds", help="Seconds of a clip: ast and beats 5, sae the network's own.", show_default=False)
    ] = None,
    network: Annotated[str | None, typer.Option(help="Of sae: the network, unless the study names one.", show_default=False)] = None,
    latents: Annotated[int | None, typer.Option(help="Of sae: how many; by default four a neuron.", show_default=False)] = None,
    k: Annotated[int, typer.Option("--k", help="Of sae: latents kept of every vector.")] = 32,
    epochs: Annotated[int | None, typer.Option(help="Passes over the clips, by default the recipe's.", show_default=False)] = None,
    seed: Annotated[int, typer.Option(help="Of all that is drawn in training.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    out: Annotated[Path, typer.Option(**PATH, help="Folder of the network's file.")] = Path("targets"),
) -> None:
    """Train a network on a data set's own classes, to be dissected, or with `sae` a sparse autoencoder of a layer: a file that a study can name."""
    from ingest.networks.network import pick_device
    from ingest.run import trained
    from ingest.study import given

    tables = {"dataset": given(reader=dataset, source=source, folds=folds), "network": given(name=network, weights=weights, clip_s=clip_s)}
    options = {"fold": fold, "seed": seed, "epochs": epochs, "latents": latents, "k": k, "device": pick_device(device)}
    print(trained(study, base, way, out, Bars(), **tables, **options))


@app.command()
def status(warehouse: Warehouse = WAREHOUSE) -> None:
    """What the warehouse holds: data sets, networks, runs, failures."""
    from warehouse.check import holdings

    held = holdings(warehouse)
    print(f"{warehouse}: {held.summary}")
    print_table(held.headers, held.runs)


@app.command()
def query(
    sql: Annotated[str, typer.Argument(help="A SQL statement; the warehouse is open for reading only.")],
    format: Annotated[Format, typer.Option(help="How to print the result.")] = Format.table,
    warehouse: Warehouse = WAREHOUSE,
) -> None:
    """Run SQL on the warehouse."""
    if (frame := store.ask(warehouse, sql)) is not None:
        print_frame(frame, format)


@app.command()
def listen(
    files: Annotated[list[Path], typer.Argument(parser=store.given_path, metavar="FILE...", help="Sound files, or folders of them.")],
    against: Annotated[list[Path] | None, typer.Option(**PATH, help="Sounds, or a folder, to compare them with; repeatable.")] = None,
    network: Annotated[
        str | None, typer.Option(help="A network of the warehouse by its name, or what it was ingested from.", show_default=False)
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Data set whose clips the sounds are compared with.", show_default=False)] = None,
    run: Annotated[int | None, typer.Option(help="A run of activations, in place of the latest.", show_default=False)] = None,
    reduction: Annotated[str | None, typer.Option(help="mean, max or active, as recorded; mean by default.", show_default=False)] = None,
    weights: Annotated[Path | None, typer.Option(**PATH, help="Checkpoint, where the network was ingested with one.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    top: Annotated[int | None, typer.Option(min=1, help="Neurons shown, by default 3 a layer; with --against 20 in all.")] = None,
    format: Annotated[Format, typer.Option(help="Table of the first neurons, or all of them as csv, json or parquet.")] = Format.table,
    page: Annotated[Path | None, typer.Option(**PATH, help="Write a page, FILE.html, or index.html in a folder.")] = None,
    site: Annotated[Path | None, typer.Option(**PATH, help="Folder of an atlas of the warehouse, for the page's links.")] = None,
    keep: Annotated[str | None, typer.Option(help="Keep the folder in the warehouse, as a data set of this name.")] = None,
    warehouse: Warehouse = WAREHOUSE,
) -> None:
    """Which neurons do these sounds move? Percentiles among a data set's clips; nothing is kept, unless by --keep."""
    from ingest.listening import answers

    if keep is not None:
        answers.check_keeps(files, against or [])
    choice = {"network": network, "dataset": dataset, "run_id": run, "reduction": reduction, "weights": weights, "device": device}
    answer = answers.ask(warehouse, files, against or [], ERRORS.say, **choice)
    if format is Format.table:
        print(answer.heading)
        print_table(*answer.table(top))
    else:
        print_frame(answer.neurons.to_arrow(), format)
    if page:
        from report.listening import Listening, build_page

        ERRORS.say(f"page {build_page(warehouse, page, Listening.of(**answer.shown(top)), site)}")
    if keep is not None:
        answers.keep(answer.ear, files[0], keep, ERRORS)


@app.command()
def analyze(
    name: Annotated[str | None, typer.Argument(help="A table; all of them by default.", show_default=False)] = None,
    output: Annotated[
        Path | None, typer.Option(**PATH, help="Folder for CSV and Parquet files.  [default: tables/ beside the warehouse]")
    ] = None,
    warehouse: Warehouse = WAREHOUSE,
) -> None:
    """Compute the derived tables and export them as CSV and Parquet."""
    from analyze import tables

    folder = output or warehouse.parent / "tables"
    with store.connect_readonly(warehouse) as con:
        for table in [name] if name else tables.names():
            exported = tables.export(con, table, folder)
            print(f"{table}: {exported.rows} rows in {', '.join(map(str, exported.files))}")
        if name:
            frame = tables.table(con, name)
            print_table(frame.columns, frame.rows())


@app.command()
def compare(
    first: Annotated[int, typer.Argument(help="A run of stage activations: `auricle status` lists them.")],
    second: Annotated[int, typer.Argument(help="Another one, of the same clips.")],
    output: Annotated[Path | None, typer.Option(**PATH, help="Folder for the matches and changed descriptions as CSV.")] = None,
    warehouse: Warehouse = WAREHOUSE,
) -> None:
    """Two networks, or two runs, side by side: layers, neurons that do the same, descriptions that changed."""
    from analyze.comparison import compare as side_by_side

    found = side_by_side(warehouse, first, second)
    print_table(found.layers.columns, found.layers.rows())
    mutual = found.matches["mutual"].sum()
    print(f"{len(found.matches)} neurons of run {first} have a match in run {second}, {mutual} of them each other's best")
    print(f"{len(found.descriptions)} descriptions differ")
    if output:
        found.export(output)


@app.command()
def validate(
    captioner: Annotated[str, typer.Option(help="acoustic, or tags of YAMNet.")] = "acoustic", warehouse: Warehouse = WAREHOUSE
) -> None:
    """Put every method to the test on a network whose neurons are known by construction."""
    from analyze import tables
    from ingest.stages.validation import pairs_found, studies
    from ingest.study import make_study

    for table in studies(captioner):
        _ingest(warehouse, make_study(table, "validate"))
    with store.connect_readonly(warehouse) as con:
        frame = tables.table(con, "validation")
    shown = ("method", "measure", "layer", "kind", "correct", "total", "share", "low", "high")
    print_table(list(shown), frame.select(shown).rows())
    for way, right, total in pairs_found(frame):
        print(f"{way}: {right} of {total} planted pairs of neuron and class found")


@app.command()
def report(
    study: Annotated[Path | None, typer.Argument(**STUDY, help="A study file, whose section [report] is meant.")] = None,
    warehouse: Warehouse = WAREHOUSE,
    site: Annotated[Path, typer.Option(**PATH, help="Folder of the atlas.")] = SITE,
    all_clips: Annotated[bool, typer.Option("--all-clips", help="Sounds and pictures of clips, too, that no other page shows.")] = False,
    layers: Annotated[list[str] | None, typer.Option("--layer", help="Pages for this layer's neurons; repeatable, by default all.")] = None,
    pages: Annotated[int | None, typer.Option(min=0, help="Most pages of neurons; 100000 by default.", show_default=False)] = None,
    rating: Annotated[int | None, typer.Option(help="Make a page to rate this many neurons' descriptions instead.")] = None,
    beside: Annotated[list[str] | None, typer.Option(help="With --rating: whose concepts, too, like 'DB wpmi'; repeatable.")] = None,
    single: Annotated[str | None, typer.Option(help="A page as one file: LAYER:UNIT, class:NAME, LAYER:cluster-NAME or address.")] = None,
    to: Annotated[Path | None, typer.Option(**PATH, help="With --single: the file to write.")] = None,
) -> None:
    """Render the atlas. Pages that would not change are left as they are."""
    if single is not None or to is not None:
        from report.single import build_single

        print(build_single(warehouse, site, single, to))
        return
    if rating is not None:
        from report.rating import build_rating

        print(build_rating(warehouse, site, rating, beside=beside))
        return
    from ingest.language.related_words import at_hand
    from ingest.study import report_choice
    from report.site import Asked, build

    asked = Asked(all_clips, **report_choice(study, layers, pages))
    with Bars().stage("atlas") as progress:
        built = build(warehouse, site, asked, progress=lambda part, done, total: progress(done, total), related=at_hand())
    print(f"{site}: {built}")


@app.command()
def serve(
    site: Annotated[Path, typer.Option(**PATH, help="Folder of the atlas.")] = SITE,
    host: Annotated[str, typer.Option(help="Address to listen on; whoever reaches it and has the token is let in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes any that is free.")] = 8765,
    query_s: Annotated[float, typer.Option("--query-seconds", min=0.1, max=45, help="Longest query of the console.")] = 20,
    upload_mb: Annotated[float, typer.Option("--upload-mb", min=0.001, max=1000, help="Largest sound that may be sent.")] = 50,
    network: Annotated[list[str] | None, typer.Option(help="As for listen, where a network's name does not say it; repeatable.")] = None,
    warehouse: Warehouse = WAREHOUSE,
) -> None:
    """Serve the atlas on this machine, with an SQL console, networks to silence and listen with, lists and votes."""
    from ingest.listening.served import Ears
    from report.live import load

    live = load()
    live.serve(live.Serving(warehouse, site, Ears(warehouse, network or ()), query_s, int(upload_mb * 1e6)), host, port)


@app.command()
def check(warehouse: Warehouse = WAREHOUSE) -> None:
    """Verify the warehouse's references, counts and activation files; exit with 1 when something is wrong."""
    from warehouse.check import check as faults

    with Bars().stage("check") as progress:
        found = list(faults(warehouse, progress))
    for line in found:
        print(line)
    if found:
        raise typer.Exit(1)
    print(f"{warehouse} is sound")


@app.command()
def stages(name: Annotated[str | None, typer.Argument(help="A stage, to see its settings.", show_default=False)] = None) -> None:
    """List the stages of a study, or the settings of one: its section of the study file."""
    from ingest import stages as known

    if name is None:
        print_table(["stage", "what it adds"], [(stage, known.adds(stage)) for stage in known.names()])
        return
    about, defaults = known.section(name)
    print(f"[{name}]: {about}\n")
    print_table(["setting", "default"], defaults)


@app.command()
def networks() -> None:
    """List the networks that can be named in `ingest`."""
    from ingest.networks.registry import list_networks

    rows = list_networks()
    print_table(list(rows[0]), [tuple(row.values()) for row in rows])


@app.command()
def datasets() -> None:
    """List the readers of data sets."""
    from ingest.sounds.readers import READERS

    print_table(["reader", "reads"], [(name, (reader.__doc__ or "").strip().splitlines()[0]) for name, reader in READERS.items()])


@app.command()
def fetch(name: Annotated[str, typer.Argument(help="A name of `auricle networks`, or minilm, the sentence encoder.")]) -> None:
    """Download a network's or the sentence encoder's published weights into the user's cache, and verify them."""
    from ingest.networks.fetch import fetch as fetch_weights

    print(fetch_weights(name))


def main() -> None:
    """Entry point: what a user can cause ends in one line and exit code 2."""
    ending.run(app)


if __name__ == "__main__":
    main()

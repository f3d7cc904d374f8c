#!/usr/bin/env python
"""The door: runs a recipe of stages, or one single job.

    python run.py --gin_file=gin/runs/cookbook.gin --workdir=out/cookbook
    python run.py --mode=generate --checkpoint=out/cookbook/sft2 --prompt="Write a function that ..."

Running the same command again skips what is finished and resumes what is not.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import logging
import os
import pathlib
import re
import shlex
import sys

FINISHED = "recipe finished"  # the last line of a run that has nothing left to do; launchers look for it
ROOT = pathlib.Path(__file__).resolve().parent

# mode → (what it does, module:function that takes the remaining arguments); these need no gin file
JOBS = {
    "export": ("write a checkpoint in Hugging Face's format", "oc_jax.hf:export_main"),
    "generate": ("sample completions from a checkpoint, of prompts or a benchmark", "oc_jax.evals.score:generate"),
    "serve": ("serve a checkpoint over HTTP as OpenAI's clients expect", "oc_jax.serve:main"),
    "score": ("judge samples of a benchmark, whoever wrote them", "oc_jax.evals.score:main"),
    "import": ("make a Hugging Face model a stage to start from", "oc_jax.hf:import_main"),
}
RECIPE_MODES = {
    "recipe": "all stages of run.recipe (the default)",
    "train": "only the training stages of run.recipe; the data sets have to be there",
    "follow": "evaluate the checkpoints of a training that another process runs in --workdir",
    "aot": "compile the training stages for a --topology of TPUs that is not there; what they need",
    "plan": "search mesh, remat and micro-batches for the fastest training step that fits a --topology",
    "print": "print the resolved configuration and the stages, run nothing",
}

# Importing these registers what gin files can bind.
CONFIGURABLES = (
    "data_prep.annealing",
    "data_prep.chunks",
    "data_prep.conversations",
    "data_prep.decontaminate",
    "data_prep.dedup",
    "data_prep.funnel",
    "data_prep.instructions",
    "data_prep.quality.stages",
    "data_prep.sampling",
    "data_prep.shards",
    "data_prep.sources",
    "data_prep.spark",
    "data_prep.tokenizer",
    "data_prep.synthesis.package_apis",
    "data_prep.synthesis.stage",
    "data_prep.synthesis.uses",
    "data_prep.transforms",
    "data_prep.web.autods",
    "data_prep.web.pages",
    "data_prep.web.recall",
    "data_prep.web.text_files",
    "oc_jax.evals",
    "oc_jax.optim",
    "oc_jax.report",
    "oc_jax.train",
)


def run_files() -> str:
    """The shipped run files and ablations, each with the first line of its comment."""
    lines = []
    for path in [*sorted((ROOT / "gin" / "runs").glob("*.gin")), *sorted((ROOT / "gin" / "ablations").glob("*.gin"))]:
        lines.append(f"  {path.relative_to(ROOT)}  {path.read_text().splitlines()[0].lstrip('# ')}")
    return "\n".join(lines)


def make_parser() -> argparse.ArgumentParser:
    modes = {**RECIPE_MODES, **{name: what for name, (what, _) in JOBS.items()}}
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="run files:\n"
        + run_files()
        + "\n\nmodes:\n"
        + "\n".join(f"  {k:10} {v}" for k, v in modes.items())
        + "\n\nA single job has its own flags: python run.py --mode=generate --help"
        + "\nOC_TRACEBACK=1 in the environment shows where an error came from.",
        add_help=False,
    )
    parser.add_argument(
        "--mode", default="recipe", choices=sorted(modes), metavar="MODE", help="what to do (see below)"
    )
    parser.add_argument("--gin_file", action="append", default=[], help="run file; may be given several times")
    parser.add_argument(
        "--gin_bindings",
        action="append",
        default=[],
        metavar="'NAME = VALUE'",
        help="overrides one binding of the files",
    )
    parser.add_argument("--workdir", help="directory that holds one sub-directory per stage; local or gs://")
    parser.add_argument(
        "--allow_config_change", action="store_true", help="resume a half-done stage although its configuration changed"
    )
    parser.add_argument(
        "--distributed",
        metavar="HOW",
        help="this is one of several processes, which train together: auto (TPU pods, GKE, Slurm, MPI), or "
        "HOST:PORT,COUNT,INDEX",
    )
    parser.add_argument("--topology", help="aot, plan: a slice as libtpu names it, for instance v5p:4x4x8")
    parser.add_argument("--slices", type=int, default=1, help="aot, plan: how many such slices")
    parser.add_argument("-h", "--help", action="store_true", help="show this and stop")
    return parser


def main(argv: list[str]) -> None:
    parser = make_parser()
    flags, rest = parser.parse_known_args(argv)
    if flags.mode in JOBS:
        module, function = JOBS[flags.mode][1].split(":")
        return getattr(importlib.import_module(module), function)([*rest, *(["--help"] if flags.help else [])])
    if flags.help:
        return parser.print_help()
    if rest:
        parser.error(f"unknown flags: {' '.join(rest)}")
    if not flags.gin_file:
        parser.error("give a run file with --gin_file, for instance --gin_file=gin/runs/cookbook.gin (see --help)")
    run_recipe(flags)


def parse_gin(files: list[str], bindings: list[str]) -> None:
    """Loads gin files and bindings. Raises ValueError or OSError, also for a macro that nothing uses."""
    import gin

    # Gin reports every directory that it looks into.
    logging.getLogger().addFilter(lambda record: not str(record.msg).startswith("Path not found"))
    gin.add_config_file_search_path(str(ROOT))
    try:
        gin.parse_config_files_and_bindings(files, bindings, print_includes_and_imports=False)
    except SyntaxError as error:
        where = error.filename or "--gin_bindings=" + " ".join(bindings)
        raise ValueError(f"{error.msg.rstrip('.')} in line {error.lineno} of {where}") from error
    text = gin.config_str(max_line_length=10**6)
    for name in re.findall(r"^(\w+) = ", text, flags=re.MULTILINE):
        if not re.search(rf"%{name}\b", text):
            used = set(re.findall(r"%(\w+)", text))
            raise ValueError(f"macro {name} is bound but nothing uses it{_suggestion(name, used)}")


def check_scopes(bindings: list[str], stages) -> None:
    """Raises ValueError for a --gin_bindings whose scope belongs to no stage: gin would take it and do nothing."""
    known = {scope for stage in stages for key in stage.parameters() if (scope := key.rpartition("/")[0])}
    for binding in bindings:
        scope = binding.partition("=")[0].strip().rpartition("/")[0]
        if scope and not any(name == scope or name.startswith(scope + "/") for name in known):
            raise ValueError(f"scope '{scope}' of the binding '{binding}' is no stage's{_suggestion(scope, known)}")


def _suggestion(name: str, known) -> str:
    near = difflib.get_close_matches(name, sorted(known), n=1)
    return f": did you mean {near[0]}?" if near else ""


def log_to(path) -> None:
    """Sends the project's log lines to the console and, if it is local, to a file, which also gets progress lines.

    None: to the console only.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if sys.stderr.isatty():  # progress stands there already, in place
        handlers[0].addFilter(lambda record: not record.name.endswith(".progress"))
    if path and "://" not in os.fspath(path):  # object stores cannot append
        handlers.append(logging.FileHandler(path))
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
        for package in ("data_prep", "oc_jax"):
            logging.getLogger(package).addHandler(handler)
            logging.getLogger(package).setLevel(logging.INFO)
            logging.getLogger(package).propagate = False


def register() -> None:
    """Makes everything that gin files can bind known to gin."""
    import gin

    for module in CONFIGURABLES:
        importlib.import_module(module)

    @gin.configurable
    def run(recipe=gin.REQUIRED):
        """Holds the binding run.recipe; run_recipe calls the stages one by one."""


def run_recipe(flags: argparse.Namespace) -> None:
    from oc_jax import distributed

    if flags.distributed:
        if flags.mode != "train":
            raise ValueError("several processes run training stages only: give --mode=train")
        distributed.start(flags.distributed)
    register()
    import gin
    from etils import epath

    from oc_jax import recipe

    parse_gin(flags.gin_file, flags.gin_bindings)
    stages = [recipe.Stage.from_reference(r) for r in gin.query_parameter("run.recipe")]
    names = [stage.name for stage in stages]
    if len(set(names)) < len(names):
        raise recipe.RecipeError(f"run.recipe names a stage twice: {', '.join(names)}; give each its own scope")
    if flags.mode in ("train", "aot", "plan", "follow"):
        stages = [stage for stage in stages if stage.selector.endswith("train.train")]
    check_scopes(flags.gin_bindings, stages)
    if missing := recipe.unbound(stages):
        raise recipe.RecipeError(f"not bound: {', '.join(missing)}")
    if flags.mode == "print":
        print(gin.config_str(), "# Stages and every parameter they see", sep="\n")
        for stage in stages:
            print(f"\n# {stage.name}", *(f"{k} = {v!r}" for k, v in stage.parameters().items()), sep="\n")
        return
    if not flags.workdir:
        raise recipe.RecipeError("give a directory for the results with --workdir")
    workdir = epath.Path(os.path.abspath(flags.workdir) if "://" not in flags.workdir else flags.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    if flags.mode in ("aot", "plan"):
        return compile_stages(flags, stages, workdir)
    if flags.mode == "follow":
        from oc_jax import evals

        log_to(None)
        return evals.follow(workdir, [stage.name for stage in stages])
    log_to(workdir / "run.log" if distributed.leads() else None)
    distributed.cache_compilations(workdir / "_compiled")
    for number, stage in enumerate(stages, start=1):
        recipe.LOGGER.info(f"[{number}/{len(stages)}] {stage.name}")
        if recipe.run_stage(stage, workdir, allow_config_change=flags.allow_config_change) and distributed.leads():
            (workdir / "config.gin").write_text(gin.config_str())
            (workdir / "operative_config.gin").write_text(recipe.operative_config(workdir, stages))
    recipe.LOGGER.info(FINISHED)


def compile_stages(flags: argparse.Namespace, stages, out) -> None:
    """One ahead-of-time report, or plan, for each training stage whose step differs from those before it."""
    from oc_jax import aot, plan

    if not flags.topology:
        raise ValueError("name the TPU to compile for with --topology, for instance --topology=v5p:4x4x8")
    run, seen = pathlib.Path(flags.gin_file[-1]).stem, []
    for stage in stages:
        arguments = stage.arguments()
        shape = [arguments[k] for k in ("model", "mesh", "batch_size", "accumulation", "seq_len")]
        if shape in seen:
            continue
        seen.append(shape)
        slices = [f"{flags.slices}x"] if flags.slices > 1 else []
        name = "-".join([run, stage.name, *slices, flags.topology]).replace(":", "_")
        if flags.mode == "plan":
            page = plan.search(arguments, flags.topology, flags.slices, out, name)
            (out / f"{name}-plan.md").write_text(page)
            print("", page, sep="\n")
            continue
        described = aot.report(arguments, flags.topology, flags.slices)
        described["command"] = shlex.join(["python", "run.py", *sys.argv[1:]])
        aot.write(described, out, name)
        print((out / f"{name}.md").read_text())


def one_line(error: BaseException) -> str:
    """What a user has to know of an error, without the place in the code."""
    return " ".join(str(error).split("\n  In call to configurable")[0].split())


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError, ArithmeticError, RuntimeError, ImportError) as error:
        if os.environ.get("OC_TRACEBACK"):
            raise
        code = getattr(error, "exit_code", 1)
        if "--distributed" in " ".join(sys.argv) and code:
            from oc_jax import distributed

            distributed.stop(error, one_line(error), code)
        print(f"run.py: {one_line(error)}", file=sys.stderr)
        sys.exit(code)

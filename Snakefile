# Profile × chapter → papermill → checked executed notebook → staging tree → Jupyter Book.
#
# `make book` calls this through `python -m pipeline.build`. On a cluster, call it with an executor plugin:
#   snakemake --executor slurm --jobs 9 --config profile=paper threads=8
import os
import sys

sys.path.insert(0, workflow.basedir)
from pipeline import execute, project

PROFILE = config.get("profile", "quick")
BUILD = f"build/{PROFILE}"
CHAPTERS = project.chapters()
# all of them are checked before the first chapter runs
PARAMETERS = {name: execute.given(PROFILE, name, project.clean_notebook(name)) for name in CHAPTERS}


rule html:
    input:
        expand(f"{BUILD}/executed/{{chapter}}.ipynb", chapter=CHAPTERS),
        expand("notebooks/{chapter}.ipynb", chapter=CHAPTERS),
        "build/figures",
        "build/live",
        "_config.yml",
        "_toc.yml",
        project.files("CHANGELOG.md", "CITATION.cff", "benchmarks/*.py", "book/**/*", "data/**/*"),
        project.files("pipeline/*.py", *execute.LIBRARY),
    output:
        f"{BUILD}/html/index.html",
    shell:
        f"{sys.executable} -m pipeline.html --profile {PROFILE}"


# The notebook itself is no input: an edit of its prose needs no run, and one of its code changes a parameter here.
rule execute:
    input:
        lambda wildcards: execute.inputs(wildcards.chapter),
    output:
        f"{BUILD}/executed/{{chapter}}.ipynb",
    params:
        code=lambda wildcards: project.digest(execute.code(wildcards.chapter)),
        parameters=lambda wildcards: PARAMETERS[wildcards.chapter],
        data=os.environ.get("FGVC_DATA", ""),
    threads: int(config.get("threads", 1))
    shell:
        f"{sys.executable} -m pipeline.execute {{wildcards.chapter}} --profile {PROFILE} --threads {{threads}}"


rule figures:
    input:
        "book/figures.py",
        project.files(*execute.LIBRARY, "data/benchmarks/*.json"),
    output:
        directory("build/figures"),
    shell:
        f"mkdir -p {{output}} && {sys.executable} {{input[0]}} {{output}}"


rule live:
    input:
        "pipeline/live.py",
        "pipeline/networks.py",
        project.files(*execute.LIBRARY, "data/networks/*.pt", "data/results/02_center_loss/*"),
    output:
        directory("build/live"),
    shell:
        f"{sys.executable} -m pipeline.live {{output}}"

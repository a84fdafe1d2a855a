# Profile × chapter → papermill → checked executed notebook → staging tree → Jupyter Book.
#
# `make book` calls this through `python -m pipeline.build`. On a cluster, call it directly, with an executor plugin:
#   snakemake --executor slurm --jobs 9 --rerun-triggers mtime --config profile=gpu threads=8
import sys

sys.path.insert(0, workflow.basedir)
from pipeline import project, sources

PROFILE = config.get("profile", "quick")
BUILD = f"build/{PROFILE}"
CHAPTERS = project.chapters()

# A chapter's key changes exactly when something that its results depend on changes (pipeline/sources.py).
if not config.get("keys_written"):  # pipeline.build has just done so
    sources.write_keys(PROFILE)


rule html:
    input:
        expand(f"{BUILD}/executed/{{chapter}}.ipynb", chapter=CHAPTERS),
        expand("notebooks/{chapter}.ipynb", chapter=CHAPTERS),
        "_config.yml",
        "_toc.yml",
        project.files("CHANGELOG.md", "CITATION.cff", "benchmarks/*.py"),
        project.files("book/**/*", "pipeline/*.py", "fgvc_lib/**/*.py", "data/**/*"),
    output:
        f"{BUILD}/html/index.html",
    shell:
        f"{sys.executable} -m pipeline.html --profile {PROFILE}"


rule execute:
    input:
        f"{BUILD}/inputs/{{chapter}}.key",
    output:
        f"{BUILD}/executed/{{chapter}}.ipynb",
    threads: int(config.get("threads", 1))
    shell:
        f"{sys.executable} -m pipeline.execute {{wildcards.chapter}} --profile {PROFILE} --threads {{threads}}"

# Snakemake schedules, on this machine or on a cluster; DVC decides what runs, restores what it knows, and records.
# The workflow itself is described in dvc.yaml alone: every stage there is a rule here.

from dvc.repo import Repo

from workflow import dag

repo = Repo()
stages = dag.rules(repo)

if workflow.is_main_process:
    lock = dag.start(repo, stages)


rule all:
    input:
        [stage.outputs for stage in stages],


for stage in stages:

    rule:
        name:
            stage.name
        input:
            stage.made,
            ancient(stage.sources),
            stage.marker,
        output:
            directory(stage.outputs),
        threads: stage.threads
        resources:
            **stage.resources,
        shell:
            "exec python workflow/stage.py {rule}"

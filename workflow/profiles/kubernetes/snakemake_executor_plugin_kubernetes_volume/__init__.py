"""Snakemake's Kubernetes executor for jobs that share a volume, with the project on it.

The executor itself rules out any shared file system: jobs would get copies of their declared inputs and hand back
their declared outputs, and the state that an interrupted training goes on from would vanish with its pod. Here
everything lies on a volume that is mounted at the same path in every pod and where Snakemake itself runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any

import snakemake_executor_plugin_kubernetes as kubernetes
from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.jobs import JobExecutorInterface

ExecutorSettings = kubernetes.ExecutorSettings

common_settings = replace(
    kubernetes.common_settings,
    implies_no_shared_fs=False,
    job_deploy_sources=False,
    auto_deploy_default_storage_provider=False,
)


class Executor(kubernetes.Executor):
    """Submits jobs that run in the folder that Snakemake runs in, not in an empty one of their own."""

    def __post_init__(self) -> None:
        paths = [volume.path for volume in self.workflow.executor_settings.persistent_volumes]
        if not any(Path.cwd().is_relative_to(path) for path in paths):
            raise WorkflowError(
                f"{Path.cwd()} lies on no volume that jobs will see ({', '.join(map(str, paths)) or 'there is none'}): "
                "run Snakemake in the project's folder there, or correct kubernetes-volume-persistent-volumes"
            )
        super().__post_init__()

    def get_job_exec_prefix(self, job: JobExecutorInterface) -> str:
        return f"cd {quote(str(Path.cwd()))}"

    def _kubernetes_retry(self, func: Callable[[], Any]) -> Any:
        """What the function returns. A pod's log that cannot be had is no reason to end the run.

        After a failure the plugin asks for the log of the container's life before, which one that is never restarted
        does not have.
        """
        try:
            return super()._kubernetes_retry(func)
        except WorkflowError:
            if func.__name__ != "read_log":
                raise
            return "The pod's log is gone; the rule's own log file says more."

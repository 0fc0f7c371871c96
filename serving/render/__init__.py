"""Build plan → Triton model repository: values in Python, placing in Jinja, lint, compare, write.

    files = render(plan)              # {"preprocessing/config.pbtxt": "...", ...}: linted, nothing touched
    changes = write(files, folder)    # only what differs; a stale file of ours goes, a user's own stays

Deployment files come from the same environment: `render_deployment(DeploymentValues(...))` gives `launch.sh`,
`compose.yaml` and `docker_run.sh`; `serving/render/deployment.py` says what each value means.
"""

from serving.render.deployment import DeploymentValues, render_deployment
from serving.render.render import Change, RepositoryRenderer, compare, render, write
from serving.render.values import RepositoryValues, values_of

__all__ = [
    "Change",
    "DeploymentValues",
    "RepositoryRenderer",
    "RepositoryValues",
    "compare",
    "render",
    "render_deployment",
    "values_of",
    "write",
]

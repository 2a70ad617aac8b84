"""Options that the commands of `fedgtv-site` share."""

from pathlib import Path
from typing import Annotated

import typer

ConfigOption = Annotated[Path, typer.Option("--config", help="The site's configuration.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print as JSON.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
SITE_YAML = Path("site.yaml")

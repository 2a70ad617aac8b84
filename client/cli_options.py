"""Options that the commands of `fedgtv-site` share."""

from pathlib import Path
from typing import Annotated

import typer

ConfigOption = Annotated[Path, typer.Option("--config", readable=False, help="The site's configuration.")]
"""One that may not be read is told of by the reader, with a remedy."""
JsonOption = Annotated[bool, typer.Option("--json", help="Print as JSON.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
SITE_YAML = Path("site.yaml")

"""Parts of help texts: the names of resources, actions and formats, which other packages define."""

from typing import Any

from typer.core import TyperArgument, TyperCommand, TyperOption

from batch_pipeline.batches.model import UploadAction
from batch_pipeline.cli.progress import step
from batch_pipeline.records import registry

FORMATS = "{formats}"


def _resources_with(action: UploadAction) -> str:
    names = [name for name, resource in registry.RESOURCES.items() if action in resource.actions]
    return "all resources" if len(names) == len(registry.RESOURCES) else ", ".join(names)


RESOURCES = ", ".join(registry.RESOURCES)
ACTIONS = ", ".join(f"{action.value} ({_resources_with(action)})" for action in UploadAction)


class HelpWithFormats(TyperCommand):
    """A command that replaces FORMATS in its help by the names of the formats, whose import takes half a second."""

    def get_help(self, *context: Any) -> str:
        """The help text with the names filled in."""
        with step("reading the names of the formats"):
            from batch_pipeline.payloads.formats import FORMATS as READABLE
        names = ", ".join(name.upper() for name in READABLE)
        for parameter in self.params:
            if isinstance(parameter, TyperArgument | TyperOption):
                parameter.help = (parameter.help or "").replace(FORMATS, names)
        return super().get_help(*context)

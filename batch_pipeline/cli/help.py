"""Help texts with the names of resources, actions and formats, which other packages define.

Importing those takes a second, so their names are filled in when a command's help is shown.
"""

from typing import Any

from typer.core import TyperArgument, TyperCommand, TyperOption

from batch_pipeline.cli.progress import step

RESOURCES = "{resources}"
ACTIONS = "{actions}"
FORMATS = "{formats}"


class HelpWithNames(TyperCommand):
    """A command that replaces RESOURCES, ACTIONS and FORMATS in its help by the names."""

    def get_help(self, *context: Any) -> str:
        """The help text with the names filled in."""
        with step("reading the names of resources and formats"):
            names = _names()
        for parameter in self.params:
            if isinstance(parameter, TyperArgument | TyperOption):
                for placeholder, text in names.items():
                    parameter.help = (parameter.help or "").replace(placeholder, text)
        return super().get_help(*context)


def _names() -> dict[str, str]:
    from batch_pipeline.batches.model import Action
    from batch_pipeline.payloads.formats import FORMATS as READABLE
    from batch_pipeline.records.registry import RESOURCES as REGISTRY

    actions = []
    for action in Action:
        having = [resource.name for resource in REGISTRY.values() if action in resource.actions]
        actions.append(f"{action.value} ({'all resources' if len(having) == len(REGISTRY) else ', '.join(having)})")
    return {
        RESOURCES: ", ".join(REGISTRY),
        ACTIONS: ", ".join(actions),
        FORMATS: ", ".join(name.upper() for name in READABLE),
    }

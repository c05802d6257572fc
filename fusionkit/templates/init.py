"""component-name: a component-kind for fusionkit."""

from fusionkit_component.component_module import Component

from fusionkit.hookspecs import hookimpl

__version__ = "0.1.0"


@hookimpl
def fusionkit_hook():
    return {"component-name": Component}

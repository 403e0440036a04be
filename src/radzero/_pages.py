"""Render HTML pages from templates that lie beside the code."""

from typing import Any


def render_page(package: str, name: str, **values: Any) -> str:
    """Render a Jinja template; every value is escaped unless the template says otherwise.

    Args:
        package: package that the template belongs to.
        name: name of the template in the package's ``data`` folder.
        **values: variables of the template; a missing variable is an error.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(package, "data"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(name).render(**values)

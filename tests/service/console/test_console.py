"""The page needs nothing but this service, and what it loads cannot be changed on the way."""

import re

import pytest

from service.console import ASSETS, VERSION

OURS = {name: content.decode() for name, (content, _) in ASSETS.items() if "uPlot" not in name}
MODULES = {name: text for name, text in OURS.items() if name.endswith(".js")}


async def test_the_page_loads_its_own_assets_alone(client):
    response = await client.get("/")
    assert response.headers["content-type"].startswith("text/html")
    links = re.findall(r'(?:src|href)="([^"#]+)"', response.text)
    assets = [link for link in links if link != "docs"]
    assert {link.rpartition("/")[0] for link in assets} == {f"console/{VERSION}"}
    for text in (response.text, *(text for name, text in OURS.items() if name != "icon.svg")):
        assert not re.search(r"https?://|@import|url\(|innerHTML|style=", text)
    for link in assets:
        assert (await client.get(f"/{link}")).status_code == 200


async def test_nothing_inline_runs_and_no_string_becomes_markup(client):
    response = await client.get("/")
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "require-trusted-types-for 'script'" in policy
    assert not re.search(r"<script[^>]*>[^<]|<style|\son[a-z]+=", response.text)


def test_every_module_that_is_imported_is_there():
    imported = {name for text in MODULES.values() for name in re.findall(r'from "\./([a-z]+\.js)"', text)}
    assert imported | {"main.js"} == set(MODULES)


async def test_an_asset_is_kept_for_as_long_as_it_is_the_same(client):
    kept = await client.get(f"/console/{VERSION}/main.js")
    assert kept.headers["content-type"].startswith("text/javascript")
    assert "immutable" in kept.headers["cache-control"]
    other = await client.get("/console/000000000000/main.js")  # that of a page of another replica
    assert other.content == kept.content
    assert other.headers["cache-control"] == "no-store"
    assert (await client.get("/")).headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("name", ["__init__.py", "index.html", "..%2f__init__.py", "nothing.js"])
async def test_nothing_else_of_the_package_is_served(client, name):
    assert (await client.get(f"/console/{VERSION}/{name}")).status_code == 404


async def test_the_licence_of_the_chart_library_is_served_with_it(client):
    assert "MIT" in (await client.get(f"/console/{VERSION}/uPlot-LICENSE.txt")).text


async def test_the_page_asks_only_paths_that_exist(client):
    asked = {f"/{path}" for text in MODULES.values() for path in re.findall(r'(?:ask|post)\(["`]([a-z/]+)', text)}
    assert {"/classify", "/model", "/gap", "/gap/history", "/gap/disagreements", "/gap/ask"} <= asked
    assert asked <= set((await client.get("/openapi.json")).json()["paths"])


async def test_the_page_and_its_assets_need_no_key(running, write_keys):
    async with running(api_keys=write_keys(person="reflux_a-key")) as client:
        for path in ("/", f"/console/{VERSION}/main.js"):
            assert (await client.get(path)).status_code == 200
        assert (await client.get("/gap")).status_code == 401


async def test_the_page_can_be_switched_off(running):
    async with running(console=False, protocols=False) as client:
        for path in ("/", f"/console/{VERSION}/main.js"):
            assert (await client.get(path)).status_code == 404

"""The pages in headless Chromium: nothing sticks out, filters work, axe finds no serious fault.

Needs Chromium (Debian: chromium-headless-shell); axe-core, which `make browser` fetches, or
$AXE_CORE names, is looked for apart.
"""

import html
import json
import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from run_folder import write_lines, write_road, write_run
from study_folder import write_study

from megatron_math.report.run import run
from megatron_math.report.study import write_study_page

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
REPOSITORY = Path(__file__).resolve().parents[2]
AXE = Path(
    os.environ.get("AXE_CORE", REPOSITORY / ".axe" / "node_modules" / "axe-core" / "axe.min.js")
)
# Page, width in pixels, dark: each page at a desk and on a phone, each once light and once dark.
LOOKS = [("run", 1280, False), ("run", 390, True), ("study", 390, False), ("study", 1280, True)]
PROBE = """
<script>
(async () => {
  const found = {};
  try {
    found.window = document.documentElement.clientWidth;
    found.page = document.documentElement.scrollWidth;
    const sticksOut = (one) => one.getBoundingClientRect().right > found.window + 1 &&
      !one.closest(".scroll, pre, .hidden, .points");
    found.outside = [...document.querySelectorAll("body *")].filter(sticksOut)
      .slice(0, 5).map((one) => one.outerHTML.slice(0, 160));
    found.dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const rows = [...document.querySelectorAll("#answers article")];
    const visible = () => rows.filter((row) => !row.hidden);
    found.all = rows.length;
    found.first = visible().length;
    const form = document.getElementById("filter");
    form.elements.kind.value = "wrong";
    form.dispatchEvent(new Event("input"));
    found.wrong = visible().map((a) => a.dataset.kinds);
    found.said = form.querySelector("output").textContent;
    form.elements.kind.value = "";
    form.elements.words.value = "no such word anywhere";
    form.dispatchEvent(new Event("input"));
    found.none = visible().length;
    form.reset();
    form.dispatchEvent(new Event("input"));
    document.querySelectorAll("details").forEach((one) => { one.open = true; });
    document.querySelectorAll("#answers article").forEach((one) => { one.hidden = false; });
    if (window.axe) {
      const result = await axe.run(document, {resultTypes: ["violations"]});
      found.violations = result.violations.map((v) => ({
        id: v.id, impact: v.impact, nodes: v.nodes.slice(0, 3).map((n) => n.html.slice(0, 160)),
      }));
    }
  } catch (error) { found.error = String(error); }
  document.documentElement.dataset.found = JSON.stringify(found);
})();
</script>
"""


@cache
def browser() -> str:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no Chromium here (looked for {', '.join(BROWSERS)})")
    return found


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    browser()
    folder = tmp_path_factory.mktemp("pages")
    road = write_road(folder, report={"compare": ["other"]})
    other = write_road(folder, name="other")
    for one in (other, road):
        write_run(one)
        rows = [
            {"id": f"h-{n}", "benchmark": "heldout-problems", "prompt": f"Question {n}?",
             "reference": "1", "output": "The answer is 1. " * 40, "finish": "stop",
             "extracted": "1", "correct": n % 3 == 0, "meta": {"level": str(n % 3)}}
            for n in range(30)
        ]  # fmt: skip
        after = one.folder("70_evaluate") / "after" / "heldout-problems"
        write_lines(after / "predictions.jsonl", rows)
    run(road)
    plan = write_study(folder)
    arms = {(arm.arm, arm.seed): arm.road.root for arm in plan.arms}
    study = write_study_page(plan.folder, arms, [plan.folder / "base"])
    return {"run": road.folder("80_report") / "index.html", "study": study}


def look(page: Path, width: int, dark: bool, folder: Path) -> dict[str, Any]:
    """What the probe finds on a copy of the page."""
    axe = f"<script>{AXE.read_text(encoding='utf-8')}</script>" if AXE.is_file() else ""
    copy = folder / "page.html"
    text = page.read_text(encoding="utf-8")
    copy.write_text(text.replace("</body>", axe + PROBE + "</body>"), encoding="utf-8")
    command = [
        *(
            browser(),
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={folder / 'profile'}",
        ),
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        *(f"--window-size={width},1400", "--virtual-time-budget=30000", "--dump-dom"),
        copy.as_uri(),
    ]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=250, check=True).stdout
    found = re.search(r'data-found="([^"]*)"', dom)
    assert found, dom[-500:]
    told: dict[str, Any] = json.loads(html.unescape(found[1]))
    return told


@pytest.mark.parametrize(("name", "width", "dark"), LOOKS)
def test_a_page_in_a_browser(
    pages: dict[str, Path], tmp_path: Path, name: str, width: int, dark: bool
) -> None:
    found = look(pages[name], width, dark, tmp_path)
    assert "error" not in found, found
    assert found["window"] == width
    assert found["page"] <= width, f"these stick out at the side: {found['outside']}"
    assert found["dark"] == dark
    assert found["first"] == 6 < found["all"]
    assert found["wrong"]
    assert all("|wrong|" in kinds for kinds in found["wrong"])
    assert re.fullmatch(r"\d+ of \d+ shown", found["said"])
    assert found["none"] == 0
    if "violations" not in found:
        pytest.skip(f"laid out and filtered; axe-core is not at {AXE}, so nothing else is known")
    serious = [v for v in found["violations"] if v["impact"] in ("serious", "critical")]
    assert not serious, json.dumps(serious, indent=1)

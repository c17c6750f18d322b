"""Save a picture of a report: python docs/screenshot.py runs/skipwise/report.html docs/report.png [--dark]

Takes the page as a desktop browser shows it, from the top down to the last section that fits.
Needs `pip install playwright` and a Chromium.
"""

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright


def main() -> None:
    parser = argparse.ArgumentParser(description="Save a picture of a Skipwise report.")
    parser.add_argument("report", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--height", type=int, default=2100, help="most pixels, from the top")
    options = parser.parse_args()
    browser = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
    with sync_playwright() as playwright:
        page = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"]).new_page(
            viewport={"width": 1280, "height": options.height}, color_scheme="dark" if options.dark else "light"
        )
        page.goto(options.report.resolve().as_uri())
        page.locator("#numbers, #use").last.wait_for()
        ends = [box["y"] + box["height"] for s in page.locator("section").all() if (box := s.bounding_box())]
        height = max((end + 32 for end in ends if end + 32 <= options.height), default=options.height)
        page.screenshot(path=options.picture, clip={"x": 0, "y": 0, "width": 1280, "height": height})


if __name__ == "__main__":
    main()

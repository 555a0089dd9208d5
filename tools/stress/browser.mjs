// Opens lessons in JupyterLab as a reader does: runs all cells, then moves every control of every explorer and looks
// whether the figure changes. browser.py starts the server and calls this.
//
//   LAB='{"url": …, "token": …}' CHROMIUM=… node tests/browser.mjs ROWS.json PICTURES NOTEBOOK ...
//
// No request may leave this machine. Exit status 1 where a cell fails, an explorer is missing or a figure stays.
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [file, pictures, ...notebooks] = process.argv.slice(2);
const lab = JSON.parse(process.env.LAB);
const modules = createRequire(join(resolve(process.env.LOOK_MODULES ?? "."), "package.json"));
const puppeteer = (await import(pathToFileURL(modules.resolve("puppeteer-core")))).default;
const SECOND = 1000;
const LIMITS = { open: 120 * SECOND, run: 1800 * SECOND, show: 60 * SECOND, move: 30 * SECOND };

// Everything below that is handed to the page runs there: `app` is JupyterLab, its current widget the notebook.
async function open(page, name) {
  await page.goto(`${lab.url}lab/tree/${name}?reset&token=${lab.token}`, { waitUntil: "domcontentloaded" });
  await page.waitForFunction(
    (wanted) => {
      const panel = window.jupyterapp?.shell.currentWidget;
      return panel?.context?.path === wanted && panel.sessionContext?.session?.kernel?.status === "idle";
    },
    { timeout: LIMITS.open, polling: 200 },
    name,
  );
}

async function runAll(page) {
  await page.evaluate(() => {
    window.finished = null;
    window.jupyterapp.commands.execute("notebook:run-all-cells").then((fine) => (window.finished = { fine }));
  });
  await page.waitForFunction(() => window.finished, { timeout: LIMITS.run, polling: 500 });
}

// What shows an error, in a cell or in the figure of an explorer, and what an explorer writes to stderr.
const errors = (page) =>
  page.evaluate(() => {
    const found = [];
    for (const cell of window.jupyterapp.shell.currentWidget.content.widgets) {
      for (const output of cell.model.outputs?.toJSON() ?? []) {
        if (output.output_type === "error") found.push(`${output.ename}: ${output.evalue}`.slice(0, 300));
      }
    }
    const shown = ".widget-interact [data-mime-type='application/vnd.jupyter.error'], " +
      ".widget-interact [data-mime-type='application/vnd.jupyter.stderr']";
    for (const node of document.querySelectorAll(shown)) found.push(node.textContent.trim().slice(-300));
    return found;
  });

// Number of the cell, and the heading above it, for every cell that makes an explorer.
const explorers = (page) =>
  page.evaluate(() => {
    let heading = "";
    const found = [];
    window.jupyterapp.shell.currentWidget.content.widgets.forEach((cell, index) => {
      const source = cell.model.sharedModel.getSource();
      const headings = cell.model.type === "markdown" ? source.match(/^#+ .+$/gm) : null;
      if (headings) heading = headings.at(-1).replace(/^#+ /, "");
      if (cell.model.type === "code" && source.includes("widgets.explore(")) found.push({ index, heading });
    });
    return found;
  });

async function bringUp(page, index) {
  await page.evaluate(async (number) => {
    const notebook = window.jupyterapp.shell.currentWidget.content;
    notebook.activeCellIndex = number;
    await notebook.scrollToItem(number, "start");
  }, index);
  const explorer = await page.waitForSelector(".jp-Cell.jp-mod-active .widget-interact", { timeout: LIMITS.show });
  await page.waitForFunction((node) => node.querySelector("img")?.naturalWidth, { timeout: LIMITS.show }, explorer);
  await explorer.evaluate((node) => node.scrollIntoView({ block: "center" }));
  return explorer;
}

const read = (control) =>
  control.evaluate((node) => ({
    name: node.querySelector(".widget-label").textContent,
    value: (node.querySelector("select")?.selectedOptions[0] ?? node.querySelector(".widget-readout"))?.textContent,
  }));

// A menu to its next entry, a slider dragged with the mouse to the other side of its middle.
async function move(page, control) {
  const menu = await control.$("select");
  const handle = await control.$(".noUi-handle");
  if (menu) {
    // The list of a menu is the system's own window, out of reach: chosen as it would tell the page.
    await menu.evaluate((node) => {
      node.selectedIndex = (node.selectedIndex + 1) % node.length;
      node.dispatchEvent(new Event("change", { bubbles: true }));
    });
  } else if (handle) {
    const track = await (await control.$(".noUi-target")).boundingBox();
    const from = await handle.boundingBox();
    const [x, y] = [from.x + from.width / 2, from.y + from.height / 2];
    await page.mouse.move(x, y);
    await page.mouse.down();
    await page.mouse.move(track.x + track.width * (x < track.x + track.width / 2 ? 0.7 : 0.3), y, { steps: 12 });
    await page.mouse.up();
  } else {
    throw new Error("a control that is neither a slider nor a menu: teach tests/browser.mjs to move it");
  }
}

// From now on every drawn frame is looked at: when the figure last changed, and how often none was to be seen.
const watch = (explorer) =>
  explorer.evaluate((node) => {
    const first = node.querySelector("img")?.src;
    const seen = { first, last: first, changed: 0, empty: 0, frames: 0, figures: 0, since: performance.now() };
    window.seen = seen;
    (function frame() {
      if (window.seen !== seen) return;
      const image = node.querySelector("img");
      seen.frames += 1;
      if (!image?.complete || !image.naturalWidth || image.getBoundingClientRect().height < 10) seen.empty += 1;
      if (image && image.src !== seen.last) {
        seen.last = image.src;
        seen.figures += 1;
        seen.changed = performance.now();
      }
      requestAnimationFrame(frame);
    })();
  });

// Waits until the figure has changed and both it and the kernel have been still for half a second.
async function settle(page) {
  await page.evaluate(() => (window.seen.released = performance.now()));
  const still = () => {
    const { seen } = window;
    const now = performance.now();
    if (window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status !== "idle") seen.busy = now;
    return seen.last !== seen.first && now - Math.max(seen.changed, seen.busy ?? 0) > 500;
  };
  await page.waitForFunction(still, { timeout: LIMITS.move, polling: 50 }).catch(() => {});
  return page.evaluate(() => {
    const { first, last, empty, frames, figures, changed, released } = window.seen;
    return { figure: first !== last, seconds: Math.max(0, changed - released) / 1000, empty, frames, figures };
  });
}

async function explore(page, name, { index, heading }) {
  const explorer = await bringUp(page, index);
  const picture = (what) => join(pictures, `${name.slice(0, 2)}-cell${index}-${what}.png`);
  await explorer.screenshot({ path: picture("0-before") });
  const found = [];
  const controls = await explorer.$$(":scope > .jupyter-widgets:not(:has(.jp-OutputArea))");
  if (!controls.length) throw new Error(`no control in the explorer below “${heading}”`);
  for (const [number, control] of controls.entries()) {
    // A menu has a move for every other entry: one of them may be the one that fails.
    const moves = (await control.$$("option")).length - 1;
    for (let count = 0; count < Math.max(moves, 1); count += 1) {
      const before = await read(control);
      await watch(explorer);
      await move(page, control);
      const saw = await settle(page);
      const after = await read(control);
      await explorer.screenshot({ path: picture(`${number + 1}-${before.name}${count || ""}`) });
      console.log(`${name}, ${heading}: ${before.name} from ${before.value} to ${after.value}, figure ` +
        `${saw.figure ? "changed" : "DID NOT CHANGE"}; ${saw.figures} figures, the last ${saw.seconds.toFixed(2)} s ` +
        `after letting go; ${saw.empty} of ${saw.frames} frames without a figure`);
      found.push({ notebook: name.replace(".ipynb", ""), explorer: heading, control: before.name, from: before.value,
        to: after.value, "figure changed": saw.figure && before.value !== after.value,
        "seconds to the last figure": Number(saw.seconds.toFixed(1)), "frames without a figure": saw.empty });
    }
  }
  return found;
}

const faults = [];
const rows = [];
rmSync(pictures, { recursive: true, force: true });
mkdirSync(pictures, { recursive: true });
const chromium = await puppeteer.launch({
  executablePath: process.env.CHROMIUM,
  protocolTimeout: 0, // a lesson that trains is waited for in one call
  args: ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"],
});
for (const name of notebooks) {
  const page = await chromium.newPage();
  await page.setViewport({ width: 1400, height: 1000 });
  try {
    await open(page, name);
    console.log(`${name}: running all cells`);
    await runAll(page);
    const all = await explorers(page);
    if (!all.length) faults.push(`${name}: no explorer`);
    const before = await errors(page);
    if (!before.length) for (const one of all) rows.push(...(await explore(page, name, one)));
    for (const error of await errors(page)) faults.push(`${name}: ${error}`);
  } catch (error) {
    faults.push(`${name}: ${error.message}`);
    await page.screenshot({ path: join(pictures, `${name.slice(0, 2)}-failed.png`) });
  }
  await page.close();
}
await chromium.close();
for (const row of rows) if (!row["figure changed"]) faults.push(`${row.notebook}: ${row.control} moved no figure`);
writeFileSync(file, JSON.stringify(rows));
console.log(faults.join("\n") || `${rows.length} controls moved, ${rows.length} figures changed`);
process.exit(faults.length ? 1 : 0);

// Opens every built page in Chromium, at the width of a desktop and of a phone, in light and in dark: runs axe-core,
// looks for anything wider than the window, for failed requests and for errors in scripts, and keeps a picture.
//
//   node tools/site/look.mjs FOLDER PICTURES [PART OF A PAGE'S NAME ...]
//
// Pages are opened from their files, and no request may leave this machine. Exit status 1 where something is wrong.
import { createRequire } from "node:module";
import { existsSync, mkdirSync, readFileSync, readdirSync } from "node:fs";
import { delimiter, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [folder, pictures, ...parts] = process.argv.slice(2);
if (!browser()) {
  console.log("looked at nothing: no Chromium found in PATH, and the variable CHROMIUM names none");
  process.exit(0);
}
const modules = createRequire(join(resolve(process.env.LOOK_MODULES ?? "."), "package.json"));
const puppeteer = (await import(pathToFileURL(modules.resolve("puppeteer-core")))).default;
const axe = readFileSync(modules.resolve("axe-core/axe.min.js"), "utf8");
const SERIOUS = new Set(["serious", "critical"]);
const VIEWS = [
  { name: "desktop", width: 1280, height: 720, scheme: "light" },
  { name: "phone", width: 390, height: 844, scheme: "dark" },
];

function browser() {
  const names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
  const found = (process.env.PATH ?? "").split(delimiter).flatMap((place) => names.map((name) => join(place, name)));
  return process.env.CHROMIUM ?? found.find(existsSync);
}

function pages(place) {
  return readdirSync(place, { recursive: true })
    .filter((name) => name.endsWith(".html") && !name.startsWith("_static") && (!parts.length || parts.some((part) => name.includes(part))))
    .sort();
}

async function look(page, name, view) {
  const faults = [];
  page.on("requestfailed", (request) => faults.push(`asked for ${request.url().slice(0, 100)} and did not get it`));
  page.on("pageerror", (error) => faults.push(`a script failed: ${error.message.split("\n")[0]}`));
  await page.setViewport({ width: view.width, height: view.height });
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: view.scheme }]);
  await page.goto(pathToFileURL(resolve(folder, name)), { waitUntil: "load" });
  await page.evaluate(() => document.fonts.ready);
  if (await page.evaluate(() => typeof Reveal !== "undefined")) {
    shows.add(name); // at one width: a slide show is scaled, not laid out again
    faults.push(...(await slides(page, name, view)));
    return faults.map((fault) => `${name}: ${fault}`);
  }
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
  if (wide > 1) faults.push(`is ${wide} pixels wider than the window`);
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  for (const { id, impact, help, nodes } of violations) {
    const line = `${impact}: ${help} (${id}, ${nodes.length}×, first ${nodes[0].target.join(" ")})`;
    if (SERIOUS.has(impact)) faults.push(line);
    else minor.add(`${line.split(" (")[0]} (${id})`);
  }
  // After the measuring: the window grows to the whole page while its picture is taken.
  const picture = join(pictures, `${name.replaceAll("/", "-")}-${view.name}.png`);
  await page.screenshot({ path: picture, fullPage: true, captureBeyondViewport: false });
  return faults.map((fault) => `${name}, ${view.name}, ${view.scheme}: ${fault}`);
}

// A slide show: one picture for each slide; nothing on it may lie outside it, and no text be too small for a projector.
const SMALLEST = 24; // of the 720 pixels of a slide's height

function smallest(slide) {
  const sizes = [Infinity];
  const texts = document.createTreeWalker(slide, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const around = texts.currentNode.parentElement;
    const seen = texts.currentNode.textContent.trim() && around.getClientRects().length;
    if (seen) sizes.push(parseFloat(getComputedStyle(around).fontSize));
  }
  return Math.min(...sizes);
}

async function slides(page, name, view) {
  const faults = [];
  await page.waitForFunction(() => Reveal.isReady());
  const all = ".slides > section > section";
  const count = await page.evaluate((found) => document.querySelectorAll(found).length, all);
  for (let i = 0; i < count; i += 1) {
    const over = await page.evaluate((found, number) => {
      const slide = document.querySelectorAll(found)[number];
      const { h, v } = Reveal.getIndices(slide);
      Reveal.slide(h, v);
      return Math.max(slide.scrollHeight - slide.clientHeight, slide.scrollWidth - slide.clientWidth);
    }, all, i);
    if (over > 1) faults.push(`slide ${i + 1} has ${over} pixels too much`);
    const letters = await page.evaluate(`(${smallest})(document.querySelectorAll(${JSON.stringify(all)})[${i}])`);
    if (letters < SMALLEST) faults.push(`slide ${i + 1} has letters of ${letters} pixels`);
    const picture = `${name.replaceAll("/", "-").replace(".html", "")}-${String(i + 1).padStart(2, "0")}-${view.name}.png`;
    await page.screenshot({ path: join(pictures, picture) });
  }
  return faults;
}

const minor = new Set();
const shows = new Set();
mkdirSync(pictures, { recursive: true });
const chromium = await puppeteer.launch({
  executablePath: browser(),
  args: ["--no-sandbox", "--allow-file-access-from-files", "--host-resolver-rules=MAP * ~NOTFOUND"],
});
const found = [];
const names = pages(folder);
for (const view of VIEWS) {
  for (const name of names.filter((one) => !shows.has(one))) {
    const page = await chromium.newPage();
    found.push(...(await look(page, name, view)));
    await page.close();
  }
}
await chromium.close();
console.log(found.join("\n") || `${names.length} pages, ${VIEWS.length} views each: nothing serious`);
if (minor.size) console.log(`less than serious: ${[...minor].sort().join("; ")}`);
process.exit(found.length || !names.length ? 1 : 0);

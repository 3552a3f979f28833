// Asks every chosen checkpoint by POST /ask and shows each line of its answer as it comes. Texts become text nodes only.
"use strict";

const byId = (id) => document.getElementById(id);
const form = byId("form"), question = byId("question"), askButton = byId("ask"), stopButton = byId("stop");
const SHOWN_CHARACTERS = 240; // of a passage; the rest unfolds
const meanings = new Map(); // what each checkpoint is, by name
let underWay = null; // the AbortController of the question that is being answered

function element(name, text = "", className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

// ---- the form -------------------------------------------------------------------------------------------------------

async function describe() {
  const reply = await fetch("info");
  const info = await reply.json();
  if (!reply.ok) throw new Error(info.error);
  byId("run").textContent = `Run ${info.run}`;
  for (const { name, what, agents } of info.checkpoints) {
    meanings.set(name, what);
    const box = element("input");
    const isFirst = name === info.checkpoints[0].name;
    Object.assign(box, { type: "checkbox", name: "checkpoint", value: name, checked: isFirst || info.checkpoints.length < 3 });
    const label = element("label");
    label.append(box, element("span", name));
    if (what) label.append(element("span", what, "what"));
    label.title = agents.join(", ");
    byId("checkpoints").append(label);
  }
  byId("checkpoints").hidden = info.checkpoints.length < 2;
  for (const example of info.examples) {
    const button = element("button", example);
    button.type = "button";
    button.addEventListener("click", () => {
      if (underWay) return;
      question.value = example;
      form.requestSubmit();
      form.scrollIntoView();
    });
    const item = element("li");
    item.append(button);
    byId("examples").querySelector("ul").append(item);
  }
  byId("examples").hidden = info.examples.length === 0;
}

question.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!underWay) form.requestSubmit();
});

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = question.value.trim();
  const chosen = [...document.querySelectorAll("input[name=checkpoint]:checked")].map((box) => box.value);
  byId("problem").textContent = "";
  if (!text || !chosen.length) {
    byId("problem").textContent = text ? "Choose who answers." : "Write a question.";
    return;
  }
  const stopper = underWay = new AbortController();
  working(true);
  byId("answers").replaceChildren();
  await Promise.all(chosen.map((name) => ask(name, text, column(name), stopper.signal)));
  underWay = null;
  working(false);
});

stopButton.addEventListener("click", () => underWay?.abort());

function working(isOn) {
  const hadFocus = document.activeElement === stopButton;
  askButton.disabled = isOn;
  stopButton.hidden = !isOn;
  if (hadFocus) askButton.focus();
}

// ---- an answer ------------------------------------------------------------------------------------------------------

function column(name) {
  const article = byId("answer").content.firstElementChild.cloneNode(true);
  article.querySelector(".name").textContent = name;
  article.querySelector(".what").textContent = meanings.get(name);
  article.setAttribute("aria-label", `Answer of ${name}`);
  byId("answers").append(article);
  return article;
}

async function ask(checkpoint, text, article, signal) {
  status(article, "Asking …", "working");
  try {
    const body = JSON.stringify({ question: text, checkpoint, stream: true });
    const reply = await fetch("ask", { method: "POST", headers: { "Content-Type": "application/json" }, body, signal });
    if (!reply.ok) throw new Error(await reason(reply));
    let isDone = false;
    for await (const line of lines(reply.body)) {
      if (line.error) throw new Error(line.error);
      show(article, line);
      isDone = line.done;
    }
    if (!isDone) throw new Error("The connection ended before the answer did.");
  } catch (error) {
    const stopped = error.name === "AbortError";
    status(article, stopped ? "Stopped." : said(error), stopped ? "" : "failed");
  }
}

async function reason(reply) {
  const text = await reply.text();
  try { return JSON.parse(text).error; } catch { return `The server answered ${reply.status}.`; }
}

const said = (error) => error instanceof TypeError ? "The server cannot be reached." : error.message;

async function* lines(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const part of parts) yield JSON.parse(part);
  }
}

function status(article, text, className = "") {
  const line = article.querySelector(".status");
  line.textContent = text;
  line.className = `status ${className}`;
}

function show(article, line) {
  if (line.agent === undefined) {
    status(article, line.waiting ? `Waiting: ${line.waiting} before this one.` : "Working …", "working");
    return;
  }
  article.querySelector(".parts").replaceChildren(
    ...(line.done ? [answer(line)] : []),
    ...list("Searched for", subQuestions(line)),
    ...list(heading(line), passages(line)),
    ...list("Made of them", condensed(line)),
  );
  const seconds = line.seconds.toFixed(1);
  if (!line.done) {
    status(article, `The ${line.agent} has spoken after ${seconds} s …`, "working");
    return;
  }
  status(article, "");
  const aloud = element("span", `Answer: ${line.answer || "nothing"}, `, "hidden"); // the answer itself stands below
  article.querySelector(".status").append(aloud, `after ${seconds} s`);
}

function answer(line) {
  return element("p", line.answer || "(nothing)", line.answer ? "answer" : "answer nothing");
}

const list = (title, made) => made ? [element("h3", title), made] : [];

function subQuestions(line) {
  const made = element("ol", "", line.sub_questions.length > 1 ? "sub-questions" : "");
  made.append(...line.sub_questions.map((text) => element("li", text)));
  return made;
}

function heading(line) {
  const isOpen = line.passages?.some((passage) => passage.selected === null);
  return isOpen ? "Found" : "Found; ✓ is read for the answer";
}

function passages(line) {
  if (!line.passages) return null;
  if (!line.passages.length) return element("p", "Nothing.");
  const made = element("ul", "", "passages");
  for (const passage of line.passages) {
    const item = element("li", "", { true: "read", false: "left" }[passage.selected] ?? "");
    item.append(...(passage.text.length > SHOWN_CHARACTERS ? folded(passage) : [...beginning(passage), passage.text]));
    made.append(item);
  }
  return made;
}

function beginning(passage) {
  const isRead = passage.selected === null ? "" : passage.selected ? "read: " : "not read: ";
  return [
    ...(isRead ? [element("span", isRead, "hidden")] : []),
    element("span", `[${passage.number}] `, "number"),
    ...(passage.title ? [element("b", passage.title), ": "] : []),
  ];
}

function folded(passage) {
  const details = element("details"), summary = element("summary");
  const excerpt = `${passage.text.slice(0, SHOWN_CHARACTERS).replace(/\S*$/, "")}…`;
  summary.append(...beginning(passage), element("span", excerpt, "excerpt"));
  details.append(summary, element("p", passage.text));
  return [details];
}

function condensed(line) {
  if (!line.condensed) return null;
  const made = element("ul");
  made.append(...line.condensed.map((passage) => element("li", passage.text)));
  return made;
}

describe().catch((error) => { byId("problem").textContent = said(error); });

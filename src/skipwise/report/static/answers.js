// What a reader asks first, each with one sentence; and what the models say beyond the old window.

const ANSWER_MARKS = { better: "M2.5,8.5L6.5,12.5L13.5,4", worse: "M3.5,3.5L12.5,12.5M12.5,3.5L3.5,12.5" };

function answerMark(verdict) {
  const path = ANSWER_MARKS[verdict] ?? "M3,8H13";
  return s("svg", { viewBox: "0 0 16 16", width: 18, height: 18, "aria-hidden": "true" }, s("path", { d: path }));
}

function answerCards(questions) {
  if (!questions.length) return null;
  return h(
    "div",
    { class: "answers" },
    questions.map(({ question, label, verdict, text, command }) =>
      h(
        "div",
        { class: `answer ${verdict}` },
        h("h2", {}, question),
        h("p", { class: "label" }, answerMark(verdict), label),
        h("p", {}, text),
        command && codeBlock(command),
      ),
    ),
  );
}

/** The first two answers of each run in a word, for the table of several runs. */
const answerWords = (run) =>
  run.questions
    .slice(0, 2)
    .map(({ label, verdict, text }) =>
      h("td", { class: "word" }, h("span", { class: `change ${verdict}`, title: text }, label)),
    );

function exampleSection() {
  const shown = data.runs.filter((run) => run.example);
  if (!shown.length) return null;
  return section(
    "example",
    "What the models say",
    "One question beyond the old window. It is chosen by its place (longest length, middle depth, first prompt), not by its answers.",
    [],
    shown.map((run) => [
      !single && h("h3", { class: `c${runColour(data.runs.indexOf(run))}` }, run.name),
      dialogue(run),
    ]),
  );
}

function dialogue(run) {
  const { task, length, depth, question, truth, answers } = run.example;
  const place = `${task}, ${tokens(length)} tokens${depth === null ? "" : `, depth ${percent(depth)}`}`;
  return h(
    "div",
    { class: "dialogue" },
    h("p", { class: "detail" }, place),
    h(
      "dl",
      {},
      question && [h("dt", {}, "End of the prompt"), h("dd", {}, h("q", {}, question))],
      h("dt", {}, "Right answer"),
      h("dd", {}, h("code", {}, truth)),
      answers.map(({ model, text, cut, score }) => [
        h("dt", {}, `${model[0].toUpperCase()}${model.slice(1)} model`),
        h(
          "dd",
          {},
          text.trim() ? h("code", { class: "spoken" }, text.trim(), cut && "…") : h("em", {}, "nothing"),
          score !== null &&
            h("small", { class: `change ${{ 0: "worse", 1: "better" }[score] ?? ""}` }, scoreWord(score)),
        ),
      ]),
    ),
  );
}

const scoreWord = (score) => ({ 0: "wrong", 1: "right" })[score] ?? `score ${percent(score)}`;

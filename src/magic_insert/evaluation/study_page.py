"""The page a rater sees: one choice at a time, by mouse or keyboard, answers kept in the browser and sent if served.

Opened as a file it works alone: the answers are downloaded at the end. Served by `action=serve` each answer is sent as
it is given. The page knows pictures by names that say nothing; which is whose stands in key.json only.
"""

import json
from collections.abc import Sequence
from typing import Any

QUESTIONS = {
    "insert": (
        "Which picture is the better insertion of the subject into the background?",
        (
            "It is the same subject.",
            "It is drawn in the style of the background.",
            "It belongs there: place, shadow.",
        ),
    ),
    "stylize": (
        "Which picture is the better drawing of the subject in the style of the background?",
        ("It is the same subject.", "It is drawn in the style of the background."),
    ),
}
CSS = """
:root { color-scheme: light dark; --ink: #1d2430; --soft: #5f6b7c; --line: #dfe3ea; --page: #f6f7f9; --card: #fff;
        --mark: #2f6fde; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8ebf0; --soft: #98a2b3; --line: #323a47; --page: #14181f;
        --card: #1c222b; --mark: #7aa7ff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 20px; }
h1 { font-size: 20px; margin: 0 0 4px; } ul { margin: 0 0 12px; padding: 0; color: var(--soft);
        display: flex; flex-wrap: wrap; gap: 0 28px; list-style-position: inside; }
#above { display: flex; gap: 16px; justify-content: center; margin: 0 0 16px; }
#above figure { margin: 0; text-align: center; color: var(--soft); font-size: 13px; }
#above img { height: min(150px, 17vh); display: block; border-radius: 8px; background: #fff; }
#sides { display: grid; grid-template-columns: 1fr 1fr; gap: 20px; }
#sides button { padding: 10px; border: 2px solid var(--line); border-radius: 14px; background: var(--card);
        cursor: pointer; color: var(--soft); font: inherit; }
#sides button:hover, #sides button:focus-visible { border-color: var(--mark); outline: none; }
#sides img { width: 100%; max-height: 48vh; object-fit: contain; display: block; border-radius: 8px;
        margin-bottom: 6px; }
kbd { border: 1px solid var(--line); border-radius: 5px; padding: 0 6px; font: 13px ui-monospace, monospace; }
progress { width: 100%; height: 8px; accent-color: var(--mark); margin: 14px 0 0; }
footer { display: flex; justify-content: space-between; color: var(--soft); font-size: 13px; }
.start { background: var(--card); border: 1px solid var(--line); border-radius: 14px; padding: 24px; max-width: 560px;
        margin: 8vh auto; }
.start button, .start input { font: inherit; padding: 8px 14px; border-radius: 8px; border: 1px solid var(--line); }
.start button { background: var(--mark); color: #fff; border: 0; cursor: pointer; }
@media (prefers-color-scheme: dark) { .start button { color: #14181f; } }
.small { image-rendering: pixelated; } [hidden] { display: none !important; } #warning { color: #c0392b; }
"""
SCRIPT = """
'use strict';
const STUDY = JSON.parse(document.getElementById('study').textContent);
const $ = id => document.getElementById(id);
const served = location.protocol.startsWith('http');
let rater = null, answers = [], shownAt = 0, unsent = [];

const place = () => 'magic-insert-study:' + STUDY.study + ':' + rater;
const keep = () => { try { localStorage.setItem(place(), JSON.stringify(answers)); } catch (error) { warn(error); } };
const warn = text => { $('warning').textContent = String(text); };

async function suggest() {
  const wanted = new URLSearchParams(location.search).get('rater');
  if (wanted !== null) { $('number').value = wanted; return; }
  if (served) {
    const reply = await fetch('next');
    if (reply.ok) $('number').value = (await reply.json()).rater;
  }
}

function begin() {
  const number = Number($('number').value);
  if (!Number.isInteger(number) || number < 0 || number >= STUDY.forms.length || $('number').value === '') {
    warn('Please give a number from 0 to ' + (STUDY.forms.length - 1) + '.');
    return;
  }
  rater = number;
  try { answers = JSON.parse(localStorage.getItem(place()) || '[]'); } catch (error) { answers = []; }
  warn('');
  $('start').hidden = true;
  show();
}

function show() {
  const form = STUDY.forms[rater];
  document.body.dataset.task = answers.length;
  $('end').hidden = answers.length < form.length;
  $('task').hidden = answers.length >= form.length;
  if (answers.length >= form.length) { finish(); return; }
  const task = form[answers.length];
  for (const side of ['left', 'right']) $(side).querySelector('img').src = 'pictures/' + task[side] + '.png';
  $('above').replaceChildren(...task.above.map(([name, picture]) => {
    const figure = document.createElement('figure'), image = document.createElement('img');
    image.src = 'pictures/' + picture + '.png';
    image.alt = name;
    figure.append(image, name);
    return figure;
  }));
  $('progress').max = form.length;
  $('progress').value = answers.length;
  $('count').textContent = (answers.length + 1) + ' of ' + form.length;
  const ahead = form[answers.length + 1];
  if (ahead) for (const side of ['left', 'right']) new Image().src = 'pictures/' + ahead[side] + '.png';
  shownAt = performance.now();
}

async function send() {
  while (unsent.length) {
    const reply = await fetch('answers', {
      method: 'POST', headers: {'Content-Type': 'application/json'}, body: JSON.stringify(unsent[0])
    });
    if (!reply.ok) throw new Error(await reply.text());
    unsent.shift();
  }
  warn('');
}

function choose(choice) {
  if (rater === null || $('task').hidden) return;
  const answer = {study: STUDY.study, rater, task: answers.length, choice,
                  milliseconds: Math.round(performance.now() - shownAt)};
  answers.push(answer);
  keep();
  if (served) {
    unsent.push(answer);
    if (unsent.length === 1) deliver();
  }
  show();
}

async function deliver() {
  try { await send(); } catch (error) {
    warn('Not saved on the server (' + error.message + '). Please download your answers at the end.');
    unsent = [];
  }
}

function back() {
  if (rater === null || !answers.length) return;
  answers.pop();
  keep();
  show();
}

function finish() {
  const text = answers.map(answer => JSON.stringify(answer)).join('\\n') + '\\n';
  $('download').href = URL.createObjectURL(new Blob([text], {type: 'application/jsonl'}));
  $('download').download = 'answers-' + STUDY.study + '-' + rater + '.jsonl';
}

document.addEventListener('keydown', event => {
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
  if (rater === null) { if (event.key === 'Enter') begin(); return; }
  if (event.key === 'ArrowLeft' || event.key === '1') choose('left');
  else if (event.key === 'ArrowRight' || event.key === '2') choose('right');
  else if (event.key === 'Backspace') back();
  else return;
  event.preventDefault();
});
for (const side of ['left', 'right']) $(side).addEventListener('click', () => { choose(side); $(side).blur(); });
for (const image of document.querySelectorAll('#sides img'))
  image.addEventListener('load', () => image.classList.toggle('small', image.naturalWidth < 256));
$('begin').addEventListener('click', begin);
$('back').addEventListener('click', event => { event.preventDefault(); back(); });
suggest();
"""
BODY = """
<main>
<section id="start" class="start"><h1>Which picture is better?</h1>
<p>You will see pairs of pictures and choose one of each pair, {least} times, in about {minutes} minutes.
Choose by mouse, or with <kbd>←</kbd> and <kbd>→</kbd>; <kbd>Backspace</kbd> goes back. Only your choices and their
times are kept.</p>
<p><label>Your number <input id="number" type="number" min="0" max="{last}" autofocus></label>
<button id="begin">Begin</button></p></section>
<section id="task" hidden><h1>{question}</h1><ul>{criteria}</ul><div id="above"></div>
<div id="sides"><button id="left"><img alt="left picture"><kbd>←</kbd> this one</button>
<button id="right"><img alt="right picture">this one <kbd>→</kbd></button></div>
<progress id="progress"></progress>
<footer><span id="count"></span><a id="back" href="#">back (Backspace)</a></footer></section>
<section id="end" class="start" hidden><h1>Thank you</h1><p>All choices are made.</p>
<p><a id="download">Download your answers</a> if you were asked to send them.</p></section>
<p id="warning" role="alert"></p></main>
"""


def study_page(study: str, track: str, forms: Sequence[Sequence[dict[str, Any]]]) -> str:
    """The whole page; `forms` name the pictures of each choice: left, right and (name, picture) pairs above."""
    question, criteria = QUESTIONS[track]
    most = max(len(form) for form in forms)
    body = BODY.format(
        least=most,
        minutes=max(1, round(most / 8)),
        last=len(forms) - 1,
        question=question,
        criteria="".join(f"<li>{text}</li>" for text in criteria),
    )
    # "</" would end the script element that holds the data.
    data = json.dumps({"study": study, "forms": forms}, separators=(",", ":")).replace("</", "<\\/")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,"><title>Which picture is better?</title>'
        f"<style>{CSS}</style></head><body>{body}"
        f'<script id="study" type="application/json">{data}</script><script>{SCRIPT}</script></body></html>\n'
    )

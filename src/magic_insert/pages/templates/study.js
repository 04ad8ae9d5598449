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
  const text = answers.map(answer => JSON.stringify(answer)).join('\n') + '\n';
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
  image.addEventListener('load', () => image.classList.toggle('pixels', image.naturalWidth < 256));
$('begin').addEventListener('click', begin);
$('back').addEventListener('click', event => { event.preventDefault(); back(); });
suggest();

"use strict";

// Leads a person who annotates images one after the other: click, keep, next. Loaded before page.js, whose names it uses.

const CURSOR_STEPS = 40; // of the cross, from one edge of the image to the other

function createGuide({ phrase, seconds_per_mask: limit }) {
  let started = performance.now(); // of the mask that is being made, or of the decision on one
  let hiddenAt = 0;
  let cursor = null; // {x, y} in pixels of the image, where the keyboard clicks
  $("guide").hidden = false;
  $("masks").classList.add("guided");
  setInterval(showTime, 500);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) hiddenAt = performance.now();
    else started += performance.now() - hiddenAt; // another window was in front
  });

  const seconds = () => (performance.now() - started) / 1000;

  function showTime() {
    if (!image) return;
    const late = limit !== null && seconds() > limit;
    const text = `This mask: ${seconds().toFixed(0)} s.`;
    $("timer").textContent = late ? `${text} That is more than ${limit} s: keep it or leave it, and go on to the next image.` : text;
    $("timer").classList.toggle("late", late);
  }

  // The next mask, once everything that was found is reviewed.
  function begin() {
    if (!image || drawing || image.missing || firstUnreviewed(0) >= 0) return;
    if (document.activeElement?.matches("button")) document.activeElement.blur(); // the space bar is for the cross
    startDrawing(null);
    $("new-phrase").value = phrase;
    showProgress();
  }

  function showProgress() {
    const kept = image.instances.filter((one) => one.state !== "reject").length;
    showStatus(`${count(kept, "mask")} so far. Click an object, or go on to the next image with Enter.`);
  }

  // After a review is with the server; meanwhile the next mask may have been begun.
  function saved() {
    if (!drawing) begin();
    else if (!drawing.clicks.length) showProgress();
  }

  function opened() {
    started = performance.now();
    cursor = null;
    begin();
  }

  // What goes with a review: how long it took, and of a mask how many clicks.
  function measure(clicks) {
    const spent = Math.round(seconds() * 100) / 100;
    started = performance.now();
    return clicks === undefined ? { seconds: spent } : { seconds: spent, clicks };
  }

  function move(dx, dy, isFine) {
    cursor ??= { x: image.width / 2, y: image.height / 2 };
    const by = isFine ? 1 : Math.max(image.width, image.height) / CURSOR_STEPS;
    cursor.x = Math.min(Math.max(cursor.x + dx * by, 0), image.width);
    cursor.y = Math.min(Math.max(cursor.y + dy * by, 0), image.height);
    show();
  }

  function clickAtCursor(label) {
    cursor ??= { x: image.width / 2, y: image.height / 2 };
    addClick(cursor.x, cursor.y, label);
  }

  // Keys that mean something else here than in a review; none while a text is typed.
  function shortcut(event) {
    const turns = { PageDown: () => step(1), PageUp: () => step(-1) };
    if (!drawing) return turns[event.key];
    return {
      ...turns,
      ArrowLeft: () => move(-1, 0, event.shiftKey),
      ArrowRight: () => move(1, 0, event.shiftKey),
      ArrowUp: () => move(0, -1, event.shiftKey),
      ArrowDown: () => move(0, 1, event.shiftKey),
      " ": () => clickAtCursor(1),
      x: () => clickAtCursor(0),
      ...(drawing.clicks.length ? {} : { Enter: () => step(1), u: () => (stopDrawing(), undo()) }),
    }[event.key];
  }

  // The cross, as lines of the SVG over the image.
  function marks() {
    if (!cursor || !drawing) return [];
    const length = Math.max(image.width, image.height) / 30;
    return [[length, 0], [0, length]].map(([dx, dy]) => {
      const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
      const ends = { x1: cursor.x - dx, x2: cursor.x + dx, y1: cursor.y - dy, y2: cursor.y + dy };
      for (const [name, value] of Object.entries(ends)) line.setAttribute(name, value);
      return line;
    });
  }

  return { begin, opened, saved, measure, shortcut, marks };
}

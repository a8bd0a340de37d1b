// The page of the web service: sends files, asks how far they are, shows answers. Nothing is fetched from elsewhere.
"use strict";

const SIDES = { L: "Left breast", R: "Right breast" };
const byId = (id) => document.getElementById(id);

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  // Never innerHTML: ids of images come from outside.
  if (text !== undefined) made.textContent = text;
  return made;
}

// A reason in words; some have nothing that a person could do.
function inWords(given) {
  const said = [given.meaning, given.remedy === "Nothing." ? "" : given.remedy].filter(Boolean).join(" ");
  return said.replaceAll("`", ""); // the signs of code are for the pages of the documentation
}

function headers() {
  const key = byId("key");
  return key && key.value ? { "X-API-Key": key.value } : {};
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, { headers: headers(), ...options });
  } catch {
    throw new Error("The service cannot be reached.");
  }
  if (!response.ok) {
    const said = await response.json().catch(() => ({}));
    throw new Error(said.detail || `The service answered with status ${response.status}.`);
  }
  return response;
}

// Sending: XMLHttpRequest, because fetch does not say how much was sent.
function send(files) {
  return new Promise((done, failed) => {
    const form = new FormData();
    // The service never sees what a file is called: names of files may be names of patients.
    files.forEach((file, number) => form.append("files", file, `file-${number + 1}`));
    const request = new XMLHttpRequest();
    request.open("POST", "/api/jobs");
    for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
    request.responseType = "json";
    request.upload.onprogress = (event) => say("Sending the images.", event.loaded, event.total);
    request.onload = () => {
      if (request.status === 202) done({ ...request.response, leftOut: namesOf(request.response, files) });
      else failed(new Error((request.response && request.response.detail) || `Refused with status ${request.status}.`));
    };
    request.onerror = () => failed(new Error("The images could not be sent: the service cannot be reached."));
    request.send(form);
  });
}

// Only this page knows what its files are called.
function namesOf(job, files) {
  return job.passed_over.map((number) => files[number - 1].name);
}

function say(sentence, done, total) {
  byId("state").hidden = false;
  if (byId("said").textContent !== sentence) byId("said").textContent = sentence;
  const bar = byId("bar");
  bar.hidden = false;
  if (total) {
    bar.max = total;
    bar.value = done;
  } else {
    bar.removeAttribute("value");
  }
}

function complain(sentence) {
  byId("state").hidden = true;
  byId("choose").hidden = false;
  byId("problem").hidden = false;
  byId("problem").textContent = sentence;
}

let busy = false;

function answer(files) {
  if (files.length) follow(() => send(files));
}

// The UID goes in a body: addresses stand in logs.
async function fetchStudy(server, study) {
  const response = await ask("/api/studies", {
    method: "POST",
    headers: { ...headers(), "Content-Type": "application/json" },
    body: JSON.stringify({ server, study }),
  });
  return response.json();
}

// From the begin of a job, which `begin` gives, to its answers.
async function follow(begin) {
  if (busy) return;
  busy = true;
  byId("problem").hidden = true;
  byId("answers").replaceChildren();
  byId("choose").hidden = true;
  byId("again").hidden = true;
  try {
    let job = await begin();
    const leftOut = job.leftOut || [];
    while (job.state === "waiting" || job.state === "working") {
      sayHowFar(job);
      await new Promise((later) => setTimeout(later, 700));
      job = await (await ask(`/api/jobs/${job.id}`)).json();
    }
    if (job.state === "failed") throw new Error(`${inWords(job)}${job.detail ? ` (${job.detail})` : ""}`);
    await show(job, leftOut);
  } catch (error) {
    complain(error.message);
  }
  busy = false;
}

function sayHowFar(job) {
  if (job.state === "waiting") {
    say(job.before ? `Waiting: ${job.before} before this one.` : "Waiting for its turn.");
  } else if (job.progress) {
    say("Reading and answering the images.", job.progress.done, job.progress.total);
  } else {
    say("Reading the images.");
  }
}

async function show(job, leftOut) {
  for (const exam of job.exams) {
    const base = `/api/jobs/${job.id}/exams/${exam.number}`;
    const found = await (await ask(base)).json();
    byId("answers").append(examPart(exam, found, base, job.exams.length));
  }
  byId("bar").hidden = true;
  const done = job.exams.length === 1 ? "Done." : `Done: ${job.exams.length} exams or groups of images.`;
  byId("said").textContent = leftOut.length
    ? `${done} Passed over, as neither DICOM nor a picture nor a zip archive: ${leftOut.join(", ")}.`
    : done;
  byId("again").hidden = false;
  byId("answers").focus({ preventScroll: true });
}

function examPart(exam, found, base, exams) {
  const part = byId("exam").content.firstElementChild.cloneNode(true);
  const within = (selector) => part.querySelector(selector);
  const title = found.exam || found.breasts.length ? "Exam" : "Images that state no exam";
  within("h2").textContent = exams > 1 ? `${title} ${exam.number}` : title;
  if (found.exam) within(".whole").append(densityPart("Both breasts together", found.exam));
  found.breasts.forEach((breast) => within(".breasts").append(densityPart(SIDES[breast.laterality] || "Breast", breast)));
  within(".agreement").textContent = agreement(found);
  if (exam.without) {
    within(".without").hidden = false;
    within(".without").textContent = `There is no structured report: ${exam.without}.`;
  }
  const downloads = within(".downloads");
  downloads.append(download("Download JSON", base, `density-${exam.number}.json`));
  if (exam.report) downloads.append(download("Download structured report (DICOM)", `${base}/report`, `density-${exam.number}.dcm`));
  if (found.refusals.length) within(".refusals").append(...refusals(found));
  if (exam.images.length) addViews(part, exam, found, base);
  return part;
}

function densityPart(title, given) {
  const ok = given.status === "ok";
  const part = element("div", ok ? "part" : "part none");
  part.append(element("div", "faint", title));
  if (ok) {
    const dense = given.dense ? "dense" : "not dense";
    part.append(element("div", "density", `${given.density}: ${given.wording} (${dense})`));
  } else {
    part.append(element("div", "density", "No answer"));
    part.append(element("p", "", inWords(given)));
  }
  if (given.probabilities) part.append(bars(given.probabilities));
  return part;
}

function bars(probabilities) {
  const list = element("dl", "bars");
  for (const [name, value] of Object.entries(probabilities)) {
    const percent = `${Math.round(100 * value)}%`;
    const meter = element("meter");
    meter.value = value;
    meter.setAttribute("aria-label", `Probability of ${name}`);
    list.append(element("dt", "", name), meter, element("dd", "", percent));
  }
  return list;
}

function agreement(found) {
  const counts = Object.entries(found.agreement.categories).filter(([, count]) => count);
  const words = counts.map(([name, count]) => `${count} ${name}`).join(", ");
  const answered = found.agreement.images;
  const said = answered ? `${answered} image${answered === 1 ? "" : "s"} answered: ${words}. ` : "No image was answered. ";
  return said + (found.calibrated ? "Probabilities are calibrated." : "Probabilities are not calibrated: they are no certainty.");
}

function download(words, path, name) {
  const button = element("button", "", words);
  button.type = "button";
  button.addEventListener("click", async () => {
    try {
      const link = element("a");
      link.href = await blobOf(path);
      link.download = name;
      link.click();
    } catch (error) {
      complain(error.message);
    }
  });
  return button;
}

// Through fetch and not by address: an address cannot carry the access key.
async function blobOf(path) {
  return URL.createObjectURL(await (await ask(path)).blob());
}

function refusals(found) {
  const list = element("ul");
  for (const refusal of found.refusals) {
    const count = refusal.images.length;
    const item = element("li", "", `${count} image${count === 1 ? "" : "s"}: ${inWords(refusal)}`);
    const details = detailsOf(found, refusal.reason);
    if (details.length) item.append(element("div", "faint", details.join("; ")));
    list.append(item);
  }
  return [element("h3", "", "Images without an answer"), list];
}

// The facts of the images with one reason, each once.
function detailsOf(found, reason) {
  const facts = found.images.filter((image) => image.reason === reason).map((image) => image.detail);
  return [...new Set(facts.filter(Boolean))];
}

function addViews(part, exam, found, base) {
  part.querySelector(".views-part").hidden = false;
  const known = new Map(found.images.map((image) => [image.image_id, image]));
  const heats = [];
  for (const image of inReadingOrder(exam.images, known)) {
    const figure = element("figure");
    const frame = element("div", "frame");
    const name = nameOf(known.get(image.image_id) || {}, image.number);
    const [view, heat] = [element("img"), element("img")];
    view.alt = name;
    heat.alt = "";
    heats.push(heat);
    frame.append(view, heat);
    figure.append(frame, caption(name, known.get(image.image_id) || {}));
    part.querySelector(".views").append(figure);
    fill(view, `${base}/images/${image.number}/view`);
    fill(heat, `${base}/images/${image.number}/heat`);
  }
  const slider = part.querySelector(".fade input");
  const fade = () => {
    heats.forEach((heat) => { heat.style.opacity = slider.value / 100; });
    part.querySelector(".fade output").textContent = `${slider.value}%`;
  };
  slider.addEventListener("input", fade);
  fade();
}

// By kind, then CC before MLO, then right before left: as mammograms are hung.
function inReadingOrder(images, known) {
  const place = (image) => {
    const facts = known.get(image.image_id) || {};
    const kind = ["DM", "s2D", "DBT"].indexOf(facts.modality);
    return [kind < 0 ? 9 : kind, facts.view === "CC" ? 0 : 1, facts.laterality === "R" ? 0 : 1, image.number];
  };
  const compare = (one, other) => one.map((value, k) => value - other[k]).find((difference) => difference) || 0;
  return [...images].sort((one, other) => compare(place(one), place(other)));
}

function nameOf(image, number) {
  const known = [image.laterality, image.view, image.modality === "unknown" ? undefined : image.modality];
  return known.filter(Boolean).join(" ") || `Image ${number}`;
}

function caption(name, image) {
  const said = element("figcaption");
  said.append(element("strong", "", name));
  if (image.density) said.append(element("div", "faint", `${image.density}: ${image.wording}`));
  return said;
}

async function fill(picture, path) {
  try {
    picture.src = await blobOf(path);
  } catch {
    picture.remove();
  }
}

byId("files").addEventListener("change", (event) => {
  const files = [...event.target.files];
  event.target.value = "";
  answer(files);
});
byId("again").addEventListener("click", () => {
  byId("answers").replaceChildren();
  byId("state").hidden = true;
  byId("choose").hidden = false;
  byId("files").focus();
});
const keyForm = byId("key-form");
if (keyForm) keyForm.addEventListener("submit", (event) => event.preventDefault());
const studyForm = byId("study-form");
if (studyForm) {
  studyForm.addEventListener("submit", (event) => {
    event.preventDefault();
    follow(() => fetchStudy(byId("server").value, byId("study").value.trim()));
  });
}
for (const kind of ["dragover", "dragenter"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    byId("drop").classList.add("over");
  });
}
document.addEventListener("dragleave", () => byId("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  byId("drop").classList.remove("over");
  answer([...event.dataTransfer.files]);
});

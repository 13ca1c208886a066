// Starts the viewers, keeps what the reader has set across reloads, and reloads a live page when
// the run has a new iteration.
"use strict";

(function () {
  const data = JSON.parse(document.getElementById("run-data").textContent);
  const key = `faml-report ${data.run}`;
  const viewers = [];
  const together = document.getElementById("together");
  let saving = 0;

  function load() {
    try {
      return JSON.parse(sessionStorage.getItem(key)) || {};
    } catch (error) {
      return {}; // a browser that keeps nothing for local files
    }
  }
  function save() {
    const views = viewers.map((v) => ({
      view: v.view,
      zoom: v.zoom,
      level: v.moved ? Number(v.slider.value) / 255 : null,
    }));
    const open = [...document.querySelectorAll("details")].map((d) => d.open);
    const kept = { ...load(), views, open, scroll: window.scrollY };
    if (together) kept.together = together.checked;
    try {
      sessionStorage.setItem(key, JSON.stringify(kept));
    } catch (error) {
      return;
    }
  }
  let fit = 0;
  const shared = {
    viewers,
    // One scale for all classes, so that sizes compare: the largest just fits.
    fit: () => {
      fit = fit || Math.min(2.5, Math.max(1, 0.42 / Math.max(...viewers.map((v) => v.reach()))));
      return fit;
    },
    together: () => Boolean(together && together.checked),
    changed: () => {
      clearTimeout(saving);
      saving = setTimeout(save, 150);
    },
  };

  const before = load();
  const boxes = [...document.querySelectorAll(".viewer")];
  let renderer = null;
  try {
    renderer = boxes.length ? new Renderer() : null;
  } catch (error) {
    document.body.classList.add("no-webgl");
    console.info(`no 3-D view: ${error.message}`);
  }
  if (renderer) {
    if (together && "together" in before) together.checked = before.together;
    boxes.forEach((box, i) => {
      const viewer = new Viewer(box, data.maps[Number(box.dataset.map)], renderer, shared);
      const kept = (before.views || [])[i];
      if (kept) {
        viewer.view = kept.view;
        viewer.zoom = kept.zoom;
        if (kept.level !== null) {
          viewer.moved = true;
          viewer.slider.value = String(255 * kept.level);
          viewer.later(true);
        }
      }
      viewers.push(viewer);
    });
    const again = () => viewers.forEach((v) => v.later(false));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
    document.body.classList.add("with-webgl");
  }
  document.querySelectorAll("details").forEach((d, i) => {
    if (before.open && before.open[i] !== undefined) d.open = before.open[i];
    d.addEventListener("toggle", shared.changed);
  });
  if (together) together.addEventListener("change", shared.changed);

  if (!data.refresh) return;
  if (before.scroll) window.scrollTo(0, before.scroll);
  const status = document.getElementById("live");
  // A server's word for the version that differs from the page's brings one reload, not many.
  let known = before.reloadedFor || data.version;
  async function poll() {
    try {
      const answer = await fetch("version", { cache: "no-store" });
      if (!answer.ok) throw new Error(String(answer.status));
      const version = (await answer.text()).trim();
      status.textContent = "live";
      status.classList.remove("lost");
      if (version && version !== data.version && version !== known) {
        known = version;
        save();
        try {
          sessionStorage.setItem(key, JSON.stringify({ ...load(), reloadedFor: version }));
        } catch (error) {
          console.info("the view is not kept");
        }
        location.reload();
        return;
      }
    } catch (error) {
      status.textContent = "no connection to faml watch";
      status.classList.add("lost");
    }
    setTimeout(poll, 1000 * data.refresh);
  }
  setTimeout(poll, 1000 * data.refresh);
})();

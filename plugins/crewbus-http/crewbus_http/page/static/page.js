// The keyboard, and what the slider says while it moves. Everything works without this.
(function () {
  "use strict";

  // A browser that connects again by itself has no error to report, nor has a page that is left. If the server refused,
  // the extension, whose handler is `onerror`, tries again after a while.
  const sources = new Set();
  htmx.createEventSource = (url) => {
    const source = new EventSource(url);
    source.addEventListener("error", (event) => {
      event.stopImmediatePropagation();
      if (source.readyState === EventSource.CLOSED) setTimeout(() => source.onerror && source.onerror(event), 1000);
    });
    sources.add(source);
    return source;
  };
  window.addEventListener("pagehide", () => sources.forEach((source) => source.close()));
  window.addEventListener("pageshow", (event) => event.persisted && location.reload());

  function rows() {
    return Array.from(document.querySelectorAll("[data-row]"));
  }

  function move(by) {
    const all = rows();
    if (!all.length) return;
    const here = all.indexOf(document.activeElement && document.activeElement.closest("[data-row]"));
    const next = all[Math.max(0, Math.min(all.length - 1, here < 0 ? 0 : here + by))];
    next.focus();
    next.scrollIntoView({ block: "nearest" });
  }

  function step(by) {
    const slider = document.getElementById("at");
    if (!slider) return;
    slider.value = String(Number(slider.value) + by);
    slider.dispatchEvent(new Event("input", { bubbles: true }));
  }

  const keys = {
    j: () => move(1),
    k: () => move(-1),
    "[": () => step(-1),
    "]": () => step(1),
    "/": () => {
      const field = document.getElementById("filter");
      if (field) field.focus();
    },
    Enter: () => {
      const row = document.activeElement;
      const link = row && row.matches("[data-row]") && row.querySelector("a");
      if (link) link.click();
    },
  };

  document.addEventListener("keydown", (event) => {
    const target = event.target;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (target.matches("input:not([type=range]):not([type=checkbox]), textarea, select")) return;
    if (event.key === "Enter" && !target.matches("[data-row]")) return;
    const act = keys[event.key];
    if (!act) return;
    if (event.key !== "Enter") event.preventDefault();
    act();
  });

  document.addEventListener("input", (event) => {
    if (event.target.id !== "at") return;
    const said = document.querySelector("output[for=at]");
    if (said) said.textContent = Number(event.target.value).toLocaleString("en") + " of " + Number(event.target.max).toLocaleString("en");
  });

  // The slider follows a run that goes on, unless it is being moved.
  document.addEventListener("htmx:sseMessage", (event) => {
    const slider = document.getElementById("at");
    const last = Number(event.detail && event.detail.lastEventId);
    if (!slider || !last || document.activeElement === slider) return;
    slider.max = slider.value = String(last);
    document.querySelector("output[for=at]").textContent = last.toLocaleString("en") + " of " + last.toLocaleString("en");
  });

  // A part that is replaced keeps the row that has the focus.
  let focused = null;
  document.addEventListener("htmx:sseBeforeMessage", () => {
    const row = document.activeElement && document.activeElement.closest("tr[id]");
    focused = row ? { id: row.id, link: document.activeElement !== row } : null;
  });
  document.addEventListener("htmx:sseMessage", () => {
    if (!focused || (document.activeElement && document.activeElement !== document.body)) return;
    const row = document.getElementById(focused.id);
    const again = row && (focused.link ? row.querySelector("a") : row);
    if (again) again.focus({ preventScroll: true });
  });
})();

"use strict";
// Texts are put on the page by `textContent` only, so that nothing in them is ever markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const stages = data.stages;
  const kinds = ["public", "seeds", "synthetic"];
  const find = (id) => document.getElementById(id);

  const element = (name, className, text) => {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const about = (stage, note) => stages[stage].name.replace(/s$/, "") + (note ? " · " + note : "");

  // The map.
  const canvas = find("canvas");
  if (canvas && data.points.length) {
    const points = data.points.map(([stage, x, y, text, note]) => ({ stage, x, y, text, note }));
    const range = (values) => [Math.min(...values), Math.max(...values)];
    const across = range(points.map((point) => point.x));
    const up = range(points.map((point) => point.y));
    const shown = kinds.map(() => true);
    const tip = find("tip");
    const context = canvas.getContext("2d");
    let chosen = null;
    let isPaper = false;

    const place = () => {
      const margin = 18;
      for (const point of points) {
        point.left = margin + ((point.x - across[0]) / (across[1] - across[0] || 1)) * (canvas.clientWidth - 2 * margin);
        point.top = margin + ((up[1] - point.y) / (up[1] - up[0] || 1)) * (canvas.clientHeight - 2 * margin);
      }
    };
    const draw = () => {
      const scale = window.devicePixelRatio || 1;
      canvas.width = canvas.clientWidth * scale;
      canvas.height = canvas.clientHeight * scale;
      context.setTransform(scale, 0, 0, scale, 0, 0);
      place();
      const style = getComputedStyle(document.documentElement);
      const color = (name) => (isPaper && { public: "#9aa0a8", seeds: "#d98a00", synthetic: "#0072b2" }[name]) || style.getPropertyValue("--" + name);
      const radius = Math.max(2.4, Math.min(4.5, 130 / Math.sqrt(points.length)));
      kinds.forEach((kind, stage) => {
        if (!shown[stage]) return;
        context.fillStyle = color(kind);
        context.globalAlpha = 0.62;
        for (const point of points) {
          if (point.stage !== stage) continue;
          context.beginPath();
          context.arc(point.left, point.top, radius, 0, 2 * Math.PI);
          context.fill();
        }
      });
      context.globalAlpha = 1;
      if (chosen) {
        context.strokeStyle = color("ink");
        context.lineWidth = 2.5;
        context.beginPath();
        context.arc(chosen.left, chosen.top, radius + 4, 0, 2 * Math.PI);
        context.stroke();
      }
    };
    const nearest = (left, top, most) => {
      let best = null;
      let least = most * most;
      for (const point of points) {
        if (!shown[point.stage]) continue;
        const distance = (point.left - left) ** 2 + (point.top - top) ** 2;
        // Of equal ones the later stage lies on top.
        if (distance <= least) [best, least] = [point, distance];
      }
      return best;
    };
    const read = (point) => {
      find("reading").replaceChildren(
        element("span", "kind", about(point.stage, point.note)),
        element("div", "text", point.text),
      );
    };
    const hideTip = () => { tip.hidden = true; };
    const showTip = (point) => {
      const short = point.text.length > 240 ? point.text.slice(0, 240) + "…" : point.text;
      tip.replaceChildren(element("span", "kind", about(point.stage, point.note)), element("span", "text", short));
      tip.hidden = false;
      const isRight = point.left > canvas.clientWidth / 2;
      const isLow = point.top > canvas.clientHeight / 2;
      tip.style.left = isRight ? "auto" : point.left + 14 + "px";
      tip.style.right = isRight ? canvas.clientWidth - point.left + 14 + "px" : "auto";
      tip.style.top = isLow ? "auto" : point.top + 14 + "px";
      tip.style.bottom = isLow ? find("map").clientHeight - point.top + 14 + "px" : "auto";
    };
    const choose = (point, hasTip) => {
      if (point === chosen && !hasTip) return;
      chosen = point;
      draw();
      if (!point) return hideTip();
      read(point);
      if (hasTip) showTip(point); else hideTip();
    };
    const under = (event) => {
      const box = canvas.getBoundingClientRect();
      return nearest(event.clientX - box.left, event.clientY - box.top, event.pointerType === "touch" ? 40 : 22);
    };
    canvas.addEventListener("pointermove", (event) => {
      if (event.pointerType === "touch") return;
      const point = under(event);
      if (point) choose(point, true); else hideTip();
    });
    canvas.addEventListener("pointerleave", hideTip);
    canvas.addEventListener("pointerdown", (event) => {
      const point = under(event);
      if (point) choose(point, event.pointerType !== "touch");
    });
    const directions = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const next = (from, [right, down]) => {
      let best = null;
      let least = Infinity;
      for (const point of points) {
        if (!shown[point.stage] || point === from) continue;
        const [left, top] = [point.left - from.left, point.top - from.top];
        const along = left * right + top * down;
        if (along <= 0.5) continue;
        const aside = Math.abs(left * down) + Math.abs(top * right);
        const cost = along + 2.5 * aside;
        if (cost < least) [best, least] = [point, cost];
      }
      return best;
    };
    canvas.addEventListener("keydown", (event) => {
      if (event.key === "Escape") return hideTip();
      if (!(event.key in directions)) return;
      event.preventDefault();
      const start = chosen && shown[chosen.stage] ? chosen : null;
      const point = start ? next(start, directions[event.key]) : nearest(canvas.clientWidth / 2, canvas.clientHeight / 2, Infinity);
      if (point) choose(point, true);
    });
    canvas.addEventListener("blur", hideTip);
    document.querySelectorAll("[data-stage]").forEach((button) => {
      button.addEventListener("click", () => {
        const stage = Number(button.dataset.stage);
        shown[stage] = !shown[stage];
        button.setAttribute("aria-pressed", String(shown[stage]));
        if (chosen && !shown[chosen.stage]) chosen = null;
        hideTip();
        draw();
      });
    });
    new ResizeObserver(() => { hideTip(); draw(); }).observe(canvas);
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
    window.addEventListener("beforeprint", () => { isPaper = true; hideTip(); draw(); });
    window.addEventListener("afterprint", () => { isPaper = false; draw(); });
    draw();
  }

  // The texts.
  const list = find("texts");
  if (list) {
    const size = 10;
    let stage = 2;
    let start = 0;
    const tabs = [...document.querySelectorAll("[data-tab]")];
    const box = find("find");
    const matches = () => {
      const wanted = box.value.trim().toLowerCase();
      const texts = stages[stage].texts;
      return wanted ? texts.filter(([text, note]) => (text + " " + note).toLowerCase().includes(wanted)) : texts;
    };
    const show = () => {
      const found = matches();
      start = Math.max(0, Math.min(start, Math.floor((found.length - 1) / size) * size));
      list.replaceChildren(...found.slice(start, start + size).map(([text, note]) => {
        const item = element("li");
        if (note) item.append(element("span", "kind", note));
        item.append(element("div", "text", text));
        return item;
      }));
      const { total, texts } = stages[stage];
      const of = texts.length < total ? ` of a sample of ${texts.length.toLocaleString("en")} (there are ${total.toLocaleString("en")})` : ` of ${total.toLocaleString("en")}`;
      const last = Math.min(start + size, found.length);
      find("where").textContent = found.length ? `${start + 1} to ${last}` + (box.value.trim() ? ` of ${found.length.toLocaleString("en")} found,` : "") + of : "Nothing found" + (box.value.trim() ? "." : ": there are none.");
      find("back").disabled = start === 0;
      find("on").disabled = last >= found.length;
      tabs.forEach((tab) => {
        const isChosen = Number(tab.dataset.tab) === stage;
        tab.setAttribute("aria-selected", String(isChosen));
        tab.tabIndex = isChosen ? 0 : -1;
      });
    };
    const open = (number) => { stage = number; start = 0; show(); };
    if (!stages[2].texts.length) stage = stages[1].texts.length ? 1 : 0;
    tabs.forEach((tab, place) => {
      tab.addEventListener("click", () => open(Number(tab.dataset.tab)));
      tab.addEventListener("keydown", (event) => {
        const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
        if (!step) return;
        const other = tabs[(place + step + tabs.length) % tabs.length];
        open(Number(other.dataset.tab));
        other.focus();
      });
    });
    box.addEventListener("input", () => { start = 0; show(); });
    find("back").addEventListener("click", () => { start -= size; show(); });
    find("on").addEventListener("click", () => { start += size; show(); });
    find("browser").hidden = false;
    show();
  }

  // What is folded away is printed as well.
  let folded = [];
  window.addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    folded.forEach((each) => { each.open = true; });
  });
  window.addEventListener("afterprint", () => folded.forEach((each) => { each.open = false; }));
})();

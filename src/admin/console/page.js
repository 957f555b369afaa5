
"use strict";
(() => {
  const at = (id) => document.getElementById(id);
  let token = "";
  let round = 0;

  async function show() {
    const mine = ++round;
    const headers = token ? { authorization: "Bearer " + token } : {};
    try {
      const answer = await fetch("/status", { headers, cache: "no-store", credentials: "omit" });
      const body = await answer.json();
      if (mine !== round) return;
      if (answer.ok) {
        at("said").textContent = (body.health.ready ? "ready" : "not ready") + ", " + new Date().toLocaleTimeString();
        at("status").textContent = JSON.stringify(body, null, 2);
        setTimeout(() => { if (mine === round) show(); }, 5000);
      } else {
        at("said").textContent = body.error.message;
        at("status").textContent = "";
      }
    } catch {
      if (mine === round) at("said").textContent = "The gateway does not answer.";
    }
  }

  at("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    token = at("token").value.trim();
    at("token").value = "";
    show();
  });
  at("forget").addEventListener("click", () => {
    token = "";
    round++;
    at("status").textContent = "";
    at("said").textContent = "Forgotten.";
  });
})();

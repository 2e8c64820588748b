// Enhances pages that work without it: follows what happens, selects all rows, counts the selected,
// goes on with a decision about many requests.
"use strict";

const live = () => document.querySelector("[data-live]");

// Seconds until the next look: the page says how many, as it knows what a look costs the service.
function wait() {
  const seconds = Number(live()?.dataset.live);
  if (seconds) setTimeout(() => look().finally(wait), seconds * 1000);
}

async function look() {
  const shown = live();
  if (!shown || document.hidden || busy(shown)) return;
  try {
    const answer = await fetch(location.href, { headers: { "X-Requested-With": "console" } });
    if (!answer.ok || answer.redirected) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.querySelector("[data-live]");
    if (fresh) shown.dataset.live = fresh.dataset.live;
    if (fresh && !busy(shown) && fresh.innerHTML !== shown.innerHTML) {
      shown.replaceChildren(...fresh.childNodes);
      select();
    }
  } catch {
    // The service does not answer now; the next look asks again.
  }
}

// Someone is reading with the keyboard, has selected rows, opened an action or filled in a field.
function busy(shown) {
  if (shown.contains(document.activeElement)) return true;
  if (shown.querySelector("input:checked, details[open]")) return true;
  return [...shown.querySelectorAll("input, textarea")].some((one) => one.value !== one.defaultValue);
}

function select() {
  const all = document.querySelector("[data-all]");
  if (!all) return;
  const rows = [...document.querySelectorAll("[data-row]")];
  const count = document.querySelector("[data-count]");
  const say = () => {
    const chosen = rows.filter((row) => row.checked).length;
    all.checked = chosen > 0 && chosen === rows.length;
    all.indeterminate = chosen > 0 && chosen < rows.length;
    count.textContent = chosen ? `${chosen} selected` : "";
  };
  all.closest("label").hidden = false;
  all.addEventListener("change", () => {
    for (const row of rows) row.checked = all.checked;
    say();
  });
  for (const row of rows) row.addEventListener("change", say);
  say();
}

// A decision about many requests goes on, a portion a page, while somebody looks at it.
document.querySelector("form[data-continue]")?.requestSubmit();

select();
wait();

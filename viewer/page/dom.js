// @ts-check
// Elements of the page.

/** @type {(id: string) => any} */
export const $ = (id) => document.getElementById(id);

/** @param {(Node | string)[]} content */
export function item(...content) {
  const li = document.createElement("li");
  li.append(...content);
  return li;
}

/** @param {string} text @param {string} label @param {() => void} act */
export function button(text, label, act) {
  const element = document.createElement("button");
  Object.assign(element, { type: "button", textContent: text, title: label });
  element.setAttribute("aria-label", label);
  element.addEventListener("click", act);
  return element;
}

/** A colour of the style sheet. @param {string} name */
export const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

"use strict";
// The slider of the front page. Without JavaScript it shows half of each picture.
for (const box of document.querySelectorAll(".compare")) {
  const range = box.querySelector("input");
  range.addEventListener("input", () => {
    box.style.setProperty("--cut", `${range.value}%`);
    range.setAttribute("aria-valuetext", `${Math.round(range.value)} % before, ${Math.round(100 - range.value)} % after`);
  });
}

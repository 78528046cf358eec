// How a report's page looks: light, dark and paper. The colours of things that differ in kind are told apart by people
// with every kind of colour vision (Okabe and Ito's set, darker or lighter for contrast on either ground).
#pragma once

namespace normlab::report {

inline constexpr char kPageStyle[] = R"css(
:root {
  color-scheme: light dark;
  --ground: #ffffff; --ink: #1b1f24; --quiet: #59636e; --rule: #d1d9e0; --warn: #8a4600;
  --c0: #0072b2; --c1: #d55e00; --c2: #007a55; --c3: #b0498a; --c4: #9a6700; --c5: #3d4fb5; --c6: #1287a8; --c7: #59636e;
  --s0: #b3cde3; --s1: #8cb4d5; --s2: #6497c4; --s3: #3f79b0; --s4: #235a92; --s5: #0b3a6b;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #0f1419; --ink: #e6edf3; --quiet: #9aa6b2; --rule: #313942; --warn: #f0b072;
    --c0: #56b4e9; --c1: #ff8a4c; --c2: #2fc893; --c3: #e59ac8; --c4: #e3b341; --c5: #96a2ff; --c6: #4fd0e7; --c7: #9aa6b2;
    --s0: #28435c; --s1: #33607f; --s2: #3f7ea6; --s3: #559fcc; --s4: #83c1ea; --s5: #c4e4fb;
  }
}
@media print {
  :root {
    color-scheme: light;
    --ground: #fff; --ink: #000; --quiet: #444; --rule: #bbb; --warn: #000;
    --c0: #0072b2; --c1: #d55e00; --c2: #007a55; --c3: #b0498a; --c4: #9a6700; --c5: #3d4fb5; --c6: #1287a8; --c7: #59636e;
    --s0: #b3cde3; --s1: #8cb4d5; --s2: #6497c4; --s3: #3f79b0; --s4: #235a92; --s5: #0b3a6b;
  }
  figure, tr { break-inside: avoid; }
  h2 { break-after: avoid; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.5rem 0; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 0.4rem; }
.meta, .note, figcaption { color: var(--quiet); font-size: 0.9rem; }
figcaption b { color: var(--ink); }
.warning { border-left: 3px solid var(--warn); padding: 0.2rem 0.8rem; color: var(--warn); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.2rem 1.2rem; margin: 0.5rem 0; }
dt { color: var(--quiet); } dd { margin: 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.92rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 0.3rem 0.7rem 0.3rem 0; border-bottom: 1px solid var(--rule); white-space: nowrap; }
td:last-child:not(.number) { white-space: normal; min-width: 11rem; }
th { color: var(--quiet); font-weight: 600; }
.number { text-align: right; }
figure { margin: 1.2rem 0; max-width: 44rem; }
.grid2 { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 0 1.5rem; }
svg { width: 100%; height: auto; display: block; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 0.1rem 1rem; margin: 0.3rem 0; padding: 0; font-size: 0.85rem; }
.legend i { display: inline-block; width: 1rem; height: 0.2rem; margin-right: 0.4rem; vertical-align: middle; }
.grid { stroke: var(--rule); stroke-width: 1; } .axis { stroke: var(--quiet); }
.tick { fill: var(--quiet); font-size: 12px; } .label { fill: var(--quiet); font-size: 13px; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; } .band { opacity: 0.18; }
.whisker { stroke: var(--ink); stroke-width: 1.5; opacity: 0.7; }
/* Viridis: even steps of lightness, for every kind of colour vision, on either ground and on grey paper. */
.h0 { fill: #440154; } .h1 { fill: #482173; } .h2 { fill: #433e85; } .h3 { fill: #38598c; } .h4 { fill: #2d708e; } .h5 { fill: #25858e; }
.h6 { fill: #1e9b8a; } .h7 { fill: #2ab07f; } .h8 { fill: #52c569; } .h9 { fill: #86d549; } .h10 { fill: #c2df23; } .h11 { fill: #fde725; }
.heat { -webkit-print-color-adjust: exact; print-color-adjust: exact; } .scale { max-width: 26rem; }
/* Lines that lie on one another, and paper without colours. */
.line[stroke="var(--c3)"] { stroke-dasharray: 2 5; stroke-linecap: round; } .line[stroke="var(--c4)"] { stroke-dasharray: 9 5; }
.line[stroke="var(--c5)"] { stroke-dasharray: 9 4 2 4; } .line[stroke="var(--c6)"] { stroke-dasharray: 5 3; }
pre { overflow-x: auto; font-size: 0.85rem; padding: 0.8rem; border: 1px solid var(--rule); }
summary { cursor: pointer; }
)css";

}  // namespace normlab::report

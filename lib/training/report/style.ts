/** The page's style: light and dark, nothing from outside. */
export const STYLE = `
:root{color-scheme:light dark;--page:#fbfaf8;--card:#fff;--ink:#1d2129;--soft:#5b6370;--line:#e4e2dd;
--run0:#2f6fd0;--run1:#d0592b;--run2:#2a8f5b;--run3:#9a4fc4;--run4:#b0862a;--run5:#c23f72}
@media (prefers-color-scheme:dark){:root{--page:#14161a;--card:#1c1f25;--ink:#e6e8ec;--soft:#9aa3b0;--line:#2e333c;
--run0:#6ea3f0;--run1:#f08a5f;--run2:#5cc48d;--run3:#c48ae6;--run4:#d9b35c;--run5:#ee7ba6}}
*{box-sizing:border-box}
body{margin:0;padding:2.5rem clamp(1rem,4vw,4rem) 4rem;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;font-variant-numeric:tabular-nums}
main{max-width:1500px;margin:0 auto}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 .2rem;overflow-wrap:anywhere}
h2{font-size:1.15rem;margin:2.6rem 0 .9rem}
p{margin:0;color:var(--soft)}
.cards{display:grid;gap:1rem;grid-template-columns:repeat(auto-fill,minmax(min(25rem,100%),1fr))}
figure{margin:0;padding:1rem 1rem .8rem;background:var(--card);border:1px solid var(--line);border-radius:10px;min-width:0}
figcaption{display:flex;justify-content:space-between;gap:1rem;margin-bottom:.5rem;font-weight:600}
figcaption b{font-weight:500;color:var(--soft)}
svg{display:block;width:100%;height:auto;overflow:visible}
.grid path{stroke:var(--line)}
.grid text{fill:var(--soft);font-size:11px}
.pointer rect{fill:transparent}
.pointer rect:hover{fill:var(--soft);opacity:.16}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1rem;margin:.6rem 0 0;padding:0;list-style:none;font-size:.85rem}
.legend i,td i{display:inline-block;width:.7rem;height:.7rem;border-radius:2px;margin-right:.4rem}
.legend b{font-weight:500;color:var(--soft)}
.scroll{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:10px}
table{border-collapse:collapse;width:100%;white-space:nowrap}
th,td{padding:.55rem .9rem;text-align:right;border-bottom:1px solid var(--line)}
th:first-child,td:first-child{text-align:left}
th{font-weight:500;color:var(--soft)}
tr:last-child td{border-bottom:0}
.samples{display:grid;gap:.8rem}
.samples img{display:block;width:100%;height:auto;image-rendering:pixelated;border-radius:4px}
.prompts{display:grid;gap:2px;margin:.5rem 0 0;padding:0;list-style:none;font-size:.8rem;color:var(--soft)}
.prompts li{overflow-wrap:anywhere}
`.replaceAll('\n', '');

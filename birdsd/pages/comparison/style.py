"""The looks of a comparison's page, beside those that every page has."""

CSS = """
.arm b{display:block;font-weight:600}.arm small{display:block;color:var(--soft);font-weight:400;
line-height:1.35;max-width:17rem}
.change b{font-weight:600;white-space:nowrap}.change small{display:block;color:var(--soft);line-height:1.35}
.change .up{color:var(--c1)}.change .down{color:var(--warn)}.change .even{color:var(--soft)}
details{background:var(--card);border:1px solid var(--rule);border-radius:.7rem;padding:.7rem 1.2rem;
margin:1rem 0}
summary{cursor:pointer;font-weight:600}details[open]>summary{margin-bottom:.6rem}
.confusions .card{border:0;padding:0;margin:0}.confusions .grid{grid-template-columns:
repeat(auto-fit,minmax(min(100%,25rem),1fr))}
.bleed{margin-inline:calc(50% - min(50vw,60rem) + 1rem);overflow-x:auto;padding-bottom:.6rem}
.matrix{border-collapse:separate;border-spacing:0;margin-inline:auto}
.matrix th,.matrix td{border:0;padding:.35rem .4rem;vertical-align:top;width:10.4rem;min-width:10.4rem}
.matrix thead th{font-size:.86rem;color:var(--ink);font-weight:600;line-height:1.25;padding-bottom:.15rem}
.matrix thead small{display:block;color:var(--soft);font-weight:400;font-size:.8rem}
.matrix tbody tr>*{border-top:1px solid var(--rule);padding-top:.7rem;padding-bottom:.7rem}
.matrix tbody th{width:11.5rem;min-width:11.5rem;position:sticky;left:0;background:var(--paper);z-index:2}
.matrix thead th:first-child{position:sticky;left:0;background:var(--paper);z-index:2}
.matrix tbody th b{display:block;line-height:1.3;margin-bottom:.4rem}
.matrix .sound{margin:0 0 .75rem}.matrix .sound:last-child{margin-bottom:0}
.matrix .field{height:4.6rem}.matrix .sound audio{height:1.7rem;margin-top:.25rem}
.matrix .named{font-size:.78rem;line-height:1.3;margin:.25rem 0 0;color:var(--soft)}
.matrix .named.ok{color:var(--c1);font-weight:600}
.matrix .none{color:var(--soft);font-size:.84rem}
.dots{height:20rem;background:var(--wash);overflow:visible}
.dots i{position:absolute;width:.75rem;height:.75rem;margin:0 0 -.375rem -.375rem;border-radius:50%;
background:var(--c1);border:2px solid var(--card)}
.dots s{position:absolute;width:2px;margin-left:-1px;background:var(--c1);opacity:.35}
.dots u{position:absolute;left:0;right:0;height:1px;background:var(--rule)}
.dots u.chance{background:none;border-top:2px dashed var(--warn);height:0}
.dots span{position:absolute;transform:translate(.65rem,50%);font-size:.8rem;line-height:1.2;
white-space:nowrap;color:var(--ink)}
.dots span.right{transform:translate(calc(-100% - .65rem),50%)}
@media (max-width:34rem){.bleed{margin-inline:-1.25rem;padding-inline:.5rem}
.matrix th,.matrix td{width:8.4rem;min-width:8.4rem}
.matrix tbody th{width:7rem;min-width:7rem}}
"""

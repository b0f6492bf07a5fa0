/* Copying needs the clipboard, which a page from a disk does not have everywhere: then the command is
   selected. */
document.querySelectorAll('button[data-copy]').forEach(function(b){b.addEventListener('click',function(){
var code=b.closest('.tools').querySelector('code'),said=b.textContent;
function done(t){b.textContent=t;setTimeout(function(){b.textContent=said},1600)}
function select(){code.closest('details').open=true;var r=document.createRange();r.selectNodeContents(code);
var s=getSelection();s.removeAllRanges();s.addRange(r);
var copied=false;try{copied=document.execCommand('copy')}catch(e){}done(copied?'Copied':'Selected')}
if(navigator.clipboard)navigator.clipboard.writeText(code.textContent).then(function(){done('Copied')},select);
else select()})});
document.querySelectorAll('button[data-play]').forEach(function(b){b.hidden=false;
b.addEventListener('click',function(){
var list=Array.from(document.querySelectorAll('[data-'+b.dataset.play+'="'+b.dataset.at+'"] audio'));
function next(){var a=list.shift();if(!a)return;a.currentTime=0;a.onended=next;a.play()}
document.querySelectorAll('audio').forEach(function(a){a.onended=null;a.pause()});next()})});

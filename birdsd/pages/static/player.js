/* A line runs over the picture while its sound plays; a click on the picture plays from there. Without the
   script the players still work. The document listens, since figures may come and go; media events do not
   bubble, hence they are captured. */
(function(){
function box(e){return e.target&&e.target.closest?e.target.closest('.sound'):null}
function place(b){var a=b.querySelector('audio'),h=b.querySelector('.head');
if(a&&h&&a.duration)h.style.left=Math.min(100,100*a.currentTime/a.duration)+'%'}
function on(kind,act){document.addEventListener(kind,function(e){var b=box(e);if(b)act(b,e.target)},true)}
on('play',function(b,audio){
document.querySelectorAll('audio').forEach(function(o){if(o!==audio)o.pause()});
b.classList.add('playing');b.classList.remove('paused');
(function run(){place(b);if(!audio.paused)requestAnimationFrame(run)})()});
on('pause',function(b){b.classList.remove('playing');b.classList.add('paused');place(b)});
on('ended',function(b){b.classList.remove('playing','paused')});
on('seeked',place);
document.addEventListener('click',function(e){
var f=e.target.closest&&e.target.closest('.sound .field');if(!f)return;
var a=f.closest('.sound').querySelector('audio'),r=f.getBoundingClientRect();if(!a)return;
if(a.duration)a.currentTime=a.duration*(e.clientX-r.left)/r.width;a.play()});
})();

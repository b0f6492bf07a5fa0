/* A line runs over the picture while its sound plays; a click on the picture plays from there, and one on a box of
   a scene from where its song begins. Without the
   script the players still work. The document listens, since figures may come and go; media events do not
   bubble, hence they are captured. */
(function(){
function box(e){return e.target&&e.target.closest?e.target.closest('.sound'):null}
function place(b){var a=b.querySelector('audio'),h=b.querySelector('.head');
if(!(a&&h&&a.duration))return;
h.style.left=Math.min(100,100*a.currentTime/a.duration)+'%';
var s=b.querySelector('.long'),x=h.offsetLeft;
if(s&&!a.paused&&(x<s.scrollLeft||x>s.scrollLeft+s.clientWidth-80))s.scrollLeft=x-40}
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
var at=e.target.closest('[data-at]');
if(at)a.currentTime=+at.dataset.at;
else if(a.duration)a.currentTime=a.duration*(e.clientX-r.left)/r.width;a.play()});
})();

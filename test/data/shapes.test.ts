import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { type Scene, type ShapesObject, shapesSample } from '../../lib/data/shapes/index.js';
import { oklab, oklabDistance } from '../../lib/data/shapes/oklab.js';
import { BACKGROUND_RGB, COLOR_RGB } from '../../lib/data/shapes/palette.js';
import { renderScene } from '../../lib/data/shapes/render.js';
import { InfinityError } from '../../lib/errors.js';

const object = (over: Partial<ShapesObject>): ShapesObject => ({
  shape: 'circle',
  color: 'red',
  fill: 'solid',
  cx: 0.5,
  cy: 0.5,
  radius: 0.3,
  rotation: 0,
  ...over,
});
const alone = (over: Partial<ShapesObject>): Scene => ({ background: 'white', objects: [object(over)] });

describe('shapes set: samples', () => {
  it('is a pure function of seed and index, whatever was drawn before', () => {
    const first = shapesSample({ seed: 7, index: 123456789012, size: 64 });
    shapesSample({ seed: 8, index: 0, size: 32 });
    assert.deepEqual(shapesSample({ seed: 7, index: 123456789012, size: 64 }), first);
    const others = [
      shapesSample({ seed: 7, index: 123456789013, size: 64 }),
      shapesSample({ seed: 8, index: 123456789012, size: 64 }),
    ];
    for (const other of others) assert.notDeepEqual(other.pixels, first.pixels);
  });

  it('draws the same scene at every size', () => {
    const [small, large] = [64, 128].map((size) => shapesSample({ seed: 1, index: 5, size }));
    assert.deepEqual(small.scene, large.scene);
    assert.equal(small.caption, large.caption);
    assert.equal(small.pixels.length, 64 * 64 * 3);
    assert.equal(large.pixels.length, 128 * 128 * 3);
  });

  it('keeps the pictures and captions of this set version', () => {
    const hash = createHash('sha256');
    for (let index = 0; index < 64; index++) {
      const { pixels, caption } = shapesSample({ seed: 0, index, size: 64 });
      hash.update(pixels).update(caption);
    }
    assert.equal(hash.digest('hex').slice(0, 16), '828231e3bd483524', 'a changed set needs a new SHAPES_SET_VERSION');
  });

  it('keeps radii, gaps and edges within the stated bounds', () => {
    for (let index = 0; index < 4000; index++) {
      const { objects } = shapesSample({ seed: 2, index, size: 16 }).scene;
      for (const [i, a] of objects.entries()) {
        assert.ok(a.radius >= 0.1 && a.radius <= 0.32, `radius ${a.radius}`);
        assert.ok(Math.abs(a.rotation) <= (15 * Math.PI) / 180);
        assert.ok(Math.min(a.cx, a.cy) - a.radius > 0 && Math.max(a.cx, a.cy) + a.radius < 1, 'inside the canvas');
        if (a.size) assert.ok(a.size === 'small' ? a.radius <= 0.14 : a.radius >= 0.22);
        for (const b of objects.slice(i + 1)) {
          const gap = Math.hypot(a.cx - b.cx, a.cy - b.cy) - a.radius - b.radius;
          assert.ok(gap >= 0.15 * Math.max(a.radius, b.radius) - 1e-12, `gap ${gap}`);
        }
      }
    }
  });

  it('refuses what it cannot draw', () => {
    const good = { seed: 0, index: 0, size: 64 };
    const bad = [{ seed: -1 }, { seed: 0.5 }, { index: Number.NaN }, { size: 8 }, { size: 64.5 }];
    for (const over of bad)
      assert.throws(
        () => shapesSample({ ...good, ...over }),
        (error) => error instanceof InfinityError && error.code === 'INVALID_ARGUMENT',
        JSON.stringify(over),
      );
  });
});

describe('shapes set: palette and renderer', () => {
  it('keeps colours apart from each other and from the backgrounds in OKLab', () => {
    // Reference values of Ottosson's article: white, and the red primary.
    assert.ok(oklabDistance(oklab([255, 255, 255]), [1, 0, 0]) < 1e-4);
    assert.ok(oklabDistance(oklab([255, 0, 0]), [0.62796, 0.22486, 0.12585]) < 1e-4);
    const colors = Object.values(COLOR_RGB).map(oklab);
    const grounds = Object.values(BACKGROUND_RGB).map(oklab);
    for (const [i, color] of colors.entries()) {
      for (const other of colors.slice(i + 1)) assert.ok(oklabDistance(color, other) > 0.17);
      for (const ground of grounds) assert.ok(oklabDistance(color, ground) > 0.15);
    }
  });

  it('covers each shape’s exact area, with anti-aliasing at its edge only', () => {
    const size = 100;
    const radius = 0.3 * size;
    const long = 1 / Math.hypot(1, 0.34);
    const areas = {
      circle: Math.PI,
      ring: Math.PI * (1 - 0.55 ** 2),
      square: 2,
      triangle: (3 * Math.sqrt(3)) / 4,
      star: 10 * 0.5 * 0.45 * Math.sin(Math.PI / 5),
      cross: long * long * (8 * 0.34 - 4 * 0.34 ** 2),
    } as const;
    for (const [shape, area] of Object.entries(areas) as [keyof typeof areas, number][]) {
      const pixels = renderScene(alone({ shape, cx: 0.503, cy: 0.491, rotation: shape === 'circle' ? 0 : 0.13 }), size);
      // Green falls from 245 (background) to 24 (ink): coverage is linear in it.
      let covered = 0;
      let partial = 0;
      for (let at = 1; at < pixels.length; at += 3) {
        const coverage = (245 - pixels[at]) / (245 - COLOR_RGB.red[1]);
        covered += coverage;
        if (coverage > 0.01 && coverage < 0.99) partial++;
      }
      const expected = area * radius * radius;
      assert.ok(Math.abs(covered - expected) < 0.01 * expected, `${shape}: ${covered} for ${expected}`);
      assert.ok(partial > 50 && partial < 14 * radius, `${shape}: ${partial} edge pixels`);
    }
  });

  it('turns a shape clockwise and puts a triangle’s corner up', () => {
    const ink = (scene: Scene, x: number, y: number) => renderScene(scene, 100)[(y * 100 + x) * 3 + 1] < 100;
    assert.ok(ink(alone({ shape: 'triangle' }), 50, 23), 'a corner at the top');
    assert.ok(!ink(alone({ shape: 'triangle' }), 50, 75), 'an edge at the bottom');
    const turned = alone({ shape: 'triangle', rotation: (15 * Math.PI) / 180 });
    assert.ok(ink(turned, 56, 23) && !ink(turned, 43, 23), 'the top corner moves right');
  });

  it('draws stripes and dots in a darker shade of the same colour', () => {
    const solid = new Set(colorsOf(renderScene(alone({}), 256)));
    for (const fill of ['striped', 'dotted'] as const) {
      const inks = colorsOf(renderScene(alone({ fill }), 256));
      const [dark, base] = [
        inks.filter((ink) => !solid.has(ink)).length,
        inks.filter((ink) => ink === '214,24,32').length,
      ];
      assert.ok(dark > 2000, `${fill}: ${dark} darker pixels`);
      assert.ok(base > dark, `${fill}: the colour prevails, ${base} to ${dark}`);
    }
  });
});

function colorsOf(pixels: Uint8Array): string[] {
  return Array.from({ length: pixels.length / 3 }, (_, i) => pixels.subarray(3 * i, 3 * i + 3).join(','));
}
